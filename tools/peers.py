"""Installation of the clients of the audit's catalogue: ``make peers``. Each entry names its package.

Debian packages are installed if we are root, else the command is printed. PyPI's and npm's packages go into a folder
of their own, which ``$TAILBITE_PEERS`` names to ``tailbite audit``. Packages that could not be installed are named.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from tailbite.audit.catalogue import load_entries


def packages_by_registry() -> dict[str, list[str]]:
    """Return the packages by registry: apt, pip, npm."""
    found: dict[str, set[str]] = defaultdict(set)
    for entry in load_entries(["all"]):
        registry, colon, names = entry.install.partition(":")
        if colon:
            found[registry.strip()] |= {name.strip() for name in names.split(",")}
    return {registry: sorted(names) for registry, names in found.items()}


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


def main(folder: Path) -> int:
    """Install, and return 1 if a package could not be installed."""
    packages = packages_by_registry()
    apt = ["apt-get", "install", "-y", "-q", "--no-install-recommends"]
    missing = []
    if os.geteuid() == 0 and shutil.which("apt-get"):
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        succeeds(["apt-get", "update", "-q"])
        missing += install(apt, packages.get("apt", []))
    else:
        print("run as root:", " ".join([*apt, *packages.get("apt", [])]))
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    missing += install([str(python), "-m", "pip", "install", "-q", "--upgrade"], packages.get("pip", []))
    if shutil.which("npm"):
        npm = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(folder)]
        missing += install(npm, packages.get("npm", []))
    else:
        missing += packages.get("npm", [])
    if missing:
        print("could not be installed:", ", ".join(missing))
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
