"""``make try-packages``: each package installed, used, upgraded, used again and removed in a Debian of its own.

The upgrade goes from an older version that has a file which the newer one lacks. After the removal the file system
must be what it was before. The RPM package is installed by rpm in the same Debian, without its dependencies: there is
no RPM system whose archive can be reached without a registry.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from release import application, rootfs
from release.debian import build_deb
from release.project import ROOT, version
from release.rpm import build_rpm
from release.wheels import build_wheels

if TYPE_CHECKING:
    from collections.abc import Callable

OLDER = "0.1.9"
HOLD = (
    "import socket, subprocess, sys; s = socket.socket(); s.bind(('127.0.0.1', 40000)); "
    "s.connect(('127.0.0.1', 40000)); sys.exit(subprocess.run(sys.argv[1:]).returncode)"
)
"""A Python program that connects to itself on port 40000 and then runs a command."""
IN_USE = ("python3", "-c", HOLD)
USES: dict[tuple[str, ...], tuple[int, str]] = {
    ("tailbite", "--version"): (0, f"tailbite {version()}"),
    ("tailbite", "--help"): (0, "Commands"),
    ("tailbite", "scan", "--netns", "self"): (0, ""),
    (*IN_USE, "tailbite", "scan", "--netns", "self"): (1, "127.0.0.1:40000"),
    (*IN_USE, "tailbite", "why", "40000", "--netns", "self"): (1, "TB101"),
    ("tailbite", "why", "--explain", "TB101"): (0, "self-connected"),
    ("tailbite", "doctor", "--netns", "self", "--json"): (0, '"findings"'),
    ("tailbite", "fix", "--reserve", "40000", "--as", "pod"): (0, "ip_local_reserved_ports"),
    ("tailbite", "wait", "--timeout", "0.1", "127.0.0.1:1"): (1, ""),
    ("tailbite", "run", "--", "true"): (0, ""),
    ("tailbite", "check", "--netns", "self"): (0, ""),
    ("man", "--path", "tailbite"): (0, "/usr/share/man/man8/tailbite.8.gz"),
    ("sh", "-c", "ls /usr/lib/systemd/system/tailbite-* /usr/share/bash-completion/completions/tailbite"): (0, ""),
}
"""Commands of a host that has the package, each with its exit status and a part of its output."""
WAYS: dict[str, tuple[Callable[[Path, Path, Path, str], Path], list[str], list[str]]] = {
    ".deb": (build_deb, ["dpkg", "--install"], ["dpkg", "--purge", "tailbite"]),
    ".rpm": (build_rpm, ["rpm", "--upgrade", "--nodeps"], ["rpm", "--erase", "--nodeps", "tailbite"]),
}


def main() -> None:
    """Try each kind of package; exit status 1 if anything was not as expected."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("kinds", nargs="*", metavar="KIND", default=list(WAYS), help="of: .deb .rpm")
    options.add_argument("--rootfs", type=Path, default=ROOT / ".peers/rootfs.tar", help="the archive of the Debian")
    given = options.parse_args()
    rootfs.make_rootfs(given.rootfs)
    with tempfile.TemporaryDirectory(prefix="tailbite-packages-") as name:
        work = Path(name)
        app = work / "app"
        (work / "wheels").mkdir()
        application.lay_out(app, build_wheels(work / "wheels"))
        faults = [fault for kind in given.kinds for fault in tried(kind, app, work / kind, given.rootfs)]
    for fault in faults:
        print(fault, file=sys.stderr)
    sys.exit(bool(faults))


def tried(kind: str, app: Path, work: Path, archive: Path) -> list[str]:
    """Try one kind of package in a system of its own and return what was not as expected."""
    build, install, remove = WAYS[kind]
    system = work / "system"
    work.mkdir()
    rootfs.unpack(archive, system)
    before = rootfs.contents(system)
    older, newer = (built(build, app, work, each) for each in (OLDER, version()))
    faults = []
    for step, commands in {
        "install": {(*install, copy_into(older, system)): (0, "")},
        "upgrade": {(*install, copy_into(newer, system)): (0, "")},
        "use": USES,
        "install again": {(*install, *(["--force"] if kind == ".rpm" else []), copy_into(newer, system)): (0, "")},
        "use again": USES,
        "remove": {tuple(remove): (0, ""), ("sh", "-c", "command -v tailbite"): (127, "")},
    }.items():
        wrong = [text for command, expected in commands.items() if (text := unexpected(system, command, expected))]
        outcome = f"{len(wrong)} not as expected" if wrong else "as expected"
        print(f"{kind}: {step}: {len(commands)} commands, {outcome}", flush=True)
        faults += [f"{kind}: {step}: {text}" for text in wrong]
    (system / older.name).unlink()
    (system / newer.name).unlink()
    after = rootfs.contents(system)
    changed = sorted(before.items() ^ after.items())
    print(f"{kind}: the file system {'is what it was before' if not changed else 'has changed'}", flush=True)
    return faults + [f"{kind}: left or lost: {path} ({what})" for path, what in changed]


def built(build: Callable[[Path, Path, Path, str], Path], app: Path, work: Path, wanted: str) -> Path:
    """Build a package of this version; the older one has a module that the newer one lacks."""
    folder = work / wanted
    content = folder / "app"
    shutil.copytree(app, content)
    if wanted == OLDER:
        (content / "tailbite/gone").mkdir()
        (content / "tailbite/gone/__init__.py").touch()
    return build(folder, content, folder, wanted)


def copy_into(package: Path, system: Path) -> str:
    """Copy a package into the system and return its path there."""
    shutil.copy(package, system / package.name)
    return f"/{package.name}"


def unexpected(system: Path, command: tuple[str, ...], expected: tuple[int, str]) -> str:
    """Run a command in the system; return what was not as expected, or nothing."""
    done = rootfs.call_inside(system, *command)
    status, part = expected
    if done.returncode == status and part in done.stdout and "Traceback" not in done.stdout:
        return ""
    return f"{' '.join(command)}: status {done.returncode} instead of {status}, or without {part!r}:\n{done.stdout}"


if __name__ == "__main__":
    main()
