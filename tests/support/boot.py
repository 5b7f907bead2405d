"""Boots a sysctl.d tree: the real programs read it, in a mount namespace, and the real kernel takes it.

Only in a network namespace of the test's own, and only with trees that say nothing but ``net.ipv4.ip_local_*``
to programs without an option to leave it out.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SYSTEMD = "/lib/systemd/systemd-sysctl"
READERS = {
    "systemd-sysctl": (
        SYSTEMD,
        "--prefix=/net/ipv4/ip_local_reserved_ports",
        "--prefix=/net/ipv4/ip_local_port_range",
    ),
    "sysctl --system": ("sysctl", "--system", "--pattern", "^net.ipv4.ip_local_"),
}
_INSIDE = """
root=$1; shift
for part in etc run usr/local/lib usr/lib/sysctl.d; do mount --bind "$root/$part" "/$part" || exit 90; done
"$@" >/dev/null 2>&1 || true
"""


def empty_tree(root: Path) -> Path:
    """Make the directories; returns ``root``."""
    for part in ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d"):
        (root / part).mkdir(parents=True)
    return root


def copy_of_this_system(root: Path) -> Path:
    """Copy this machine's own files below ``root``, links as links; returns ``root``."""
    empty_tree(root)
    for directory in ("etc/sysctl.d", "usr/lib/sysctl.d", "usr/local/lib/sysctl.d"):
        if Path("/", directory).is_dir():
            shutil.copytree(Path("/", directory), root / directory, symlinks=True, dirs_exist_ok=True)
    if Path("/etc/sysctl.conf").exists():
        shutil.copy("/etc/sysctl.conf", root / "etc/sysctl.conf")
    return root


def boot(root: Path, reader: str) -> None:
    """Have ``reader`` apply the tree to this thread's network namespace."""
    command = ("unshare", "--mount", "sh", "-c", _INSIDE, "sh", str(root), *READERS[reader])
    subprocess.run(command, check=True, capture_output=True, timeout=60)
