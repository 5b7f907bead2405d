"""Installation of the clients of the audit's catalogue: ``make peers``. Each entry names its package.

Debian packages are installed if we are root, else the command is printed. PyPI's and npm's packages go into a folder
of their own, which ``$TAILBITE_PEERS`` names to ``tailbite audit``. A Debian package that conflicts with another one
(``deb:`` in its entry) is unpacked there, and only its dependencies are installed. Packages that could not be
installed are named, unless the program they are for is here already, from elsewhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tailbite.audit.catalogue import CatalogueEntry, load_entries


def names_of(entry: CatalogueEntry) -> list[str]:
    """Return the names of an entry's packages."""
    return [name.strip() for name in entry.install.partition(":")[2].split(",")]


def packages_by_registry() -> dict[str, list[str]]:
    """Return the packages by registry: apt, deb, pip, npm."""
    found: dict[str, set[str]] = defaultdict(set)
    for entry in load_entries(["all"]):
        registry, colon, _ = entry.install.partition(":")
        if colon:
            found[registry.strip()] |= set(names_of(entry))
    return {registry: sorted(names) for registry, names in found.items()}


def without_installed(packages: list[str]) -> list[str]:
    """Return the Debian packages that are not installed yet."""
    shown = ["dpkg-query", "-W", "-f=${db:Status-Abbrev} ${Package}\n", *packages]
    told = subprocess.run(shown, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    installed = {line.split()[1] for line in told.splitlines() if line.startswith("ii ")}
    return [package for package in packages if package not in installed]


def needed(packages: list[str]) -> list[str]:
    """Return the packages of which a client is not found, from wherever it came."""
    by_package = defaultdict(list)
    for entry in load_entries(["all"]):
        for package in names_of(entry):
            by_package[package].append(entry)
    return [package for package in packages if any(entry.find() is None for entry in by_package[package])]


def succeeds(command: list[str]) -> bool:
    """Print and run a command; True if it exits with 0."""
    print("$", " ".join(command), flush=True)
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 0
    except OSError as error:
        print(error)
        return False


def install(command: list[str], packages: list[str]) -> list[str]:
    """Install all at once, and one by one if that fails; return those that could not be installed."""
    if not packages or succeeds([*command, *packages]):
        return []
    return [package for package in packages if not succeeds([*command, package])]


def unpack(folder: Path, package: str) -> bool:
    """Unpack a Debian package into a folder, and install what it depends on; True if both went well."""
    if folder.is_dir():
        return True
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        subprocess.run(["apt-get", "download", "-q", package], cwd=scratch, stdin=subprocess.DEVNULL, check=False)
        for file in Path(scratch).glob("*.deb"):
            shown = ["dpkg-deb", "--field", str(file), "Depends"]
            depends = subprocess.run(shown, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
            satisfy = ["apt-get", "satisfy", "-y", "-q", "--no-install-recommends", depends]
            return succeeds(satisfy) and succeeds(["dpkg-deb", "--extract", str(file), str(folder)])
    return False


def main(folder: Path) -> int:
    """Install, and return 1 if a package could not be installed."""
    packages = packages_by_registry()
    apt = ["apt-get", "install", "-y", "-q", "--no-install-recommends"]
    missing = []
    if os.geteuid() == 0 and shutil.which("apt-get"):
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        succeeds(["apt-get", "update", "-q"])
        missing += install(apt, without_installed(packages.get("apt", [])))
        missing += [name for name in packages.get("deb", []) if not unpack(folder / "deb" / name, name)]
    else:
        print("run as root:", " ".join([*apt, *packages.get("apt", [])]))
        missing += packages.get("deb", [])
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    missing += install([str(python), "-m", "pip", "install", "-q", "--upgrade"], packages.get("pip", []))
    if shutil.which("npm"):
        npm = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(folder)]
        missing += install(npm, packages.get("npm", []))
    else:
        missing += packages.get("npm", [])
    os.environ["TAILBITE_PEERS"] = str(folder)
    missing = needed(missing)
    if missing:
        print("could not be installed:", ", ".join(missing))
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
