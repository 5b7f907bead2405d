"""A Debian root file system, made by mmdebstrap, in which a package is installed and removed. Root only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from release.project import run

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = "python3,man-db,rpm,iproute2,procps"
"""Debian's Python and the programs with which the commands of a package are tried."""


def make_rootfs(archive: Path, packages: str = PACKAGES) -> None:
    """Make the archive of a small Debian, unless it is there already."""
    if archive.exists():
        return
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        sys.exit("this needs root and mmdebstrap (Debian's package mmdebstrap)")
    archive.parent.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_name(f"unfinished-{archive.name}")
    run("mmdebstrap", "--variant=minbase", f"--include={packages}", debian_suite(), unfinished)
    unfinished.rename(archive)


def debian_suite() -> str:
    """Return the suite of the Debian that this runs on; bookworm on another system."""
    done = subprocess.run(
        ["sh", "-c", '. /etc/os-release; echo "$ID $VERSION_CODENAME"'], check=True, text=True, stdout=subprocess.PIPE
    )
    system, _, suite = done.stdout.strip().partition(" ")
    return suite if system == "debian" else "bookworm"


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the archive into a folder that does not exist yet."""
    folder.mkdir(parents=True)
    run("tar", "--extract", "--numeric-owner", "--file", archive, "--directory", folder, "--exclude=./dev/*")


def call_inside(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the unpacked system, in new network, PID and mount namespaces with a loopback device."""
    script = (
        'mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/dev" && mknod -m 666 "$0/dev/null" c 1 3'
        ' && chroot "$0" ip link set lo up && exec chroot "$0" "$@"'
    )
    isolated = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child")
    clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
    return subprocess.run(
        [*isolated, "sh", "-c", script, str(folder), *command],
        check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=clean, timeout=300,
    )  # fmt: skip


def contents(folder: Path) -> dict[str, str]:
    """Return every path of the system with its type, and the target of links: what a removal must restore."""
    volatile = (
        "var/lib/dpkg",
        "var/lib/rpm",
        "usr/lib/sysimage/rpm",
        "root/.rpmdb",
        "var/log",
        "var/cache",
        "proc",
        "dev",
        "tmp",
        "run",
    )
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(volatile):
            found[name] = f"-> {path.readlink()}" if path.is_symlink() else "folder" if path.is_dir() else "file"
    return found
