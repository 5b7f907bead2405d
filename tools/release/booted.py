"""A Debian with systemd as PID 1, in namespaces of its own, in which the units of a package are tried. Root only."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = "systemd,systemd-sysv,dbus,python3,iproute2,procps,iptables,nftables,openssh-server"
_START_S = 120.0
_BOOT = r"""
set -e
group=/sys/fs/cgroup/$2
umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mkdir -p "$group" && echo $$ > "$group/cgroup.procs"
exec unshare --cgroup --pid --fork --kill-child --mount --net --uts --ipc sh -c '
set -e
mount --bind "$0" "$0" && cd "$0"
# Settings and devices of the machine are out of reach: systemd would set sysctls, and agetty modes of terminals.
mount -t proc proc proc && mount --bind proc/sys proc/sys && mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys && mount -t cgroup2 none sys/fs/cgroup
mount -t tracefs -o ro tracefs sys/kernel/tracing 2>/dev/null || true
mount -t tmpfs tmpfs run && mount -t tmpfs tmpfs tmp
mount -t tmpfs tmpfs dev
mknod -m 666 dev/null c 1 3 && mknod -m 666 dev/zero c 1 5 && mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8 && mknod -m 666 dev/urandom c 1 9 && mknod -m 666 dev/tty c 5 0
mkdir dev/pts dev/shm && mount -t devpts devpts dev/pts && ln -s pts/ptmx dev/ptmx
ip link set lo up
exec < dev/null
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /lib/systemd/systemd --log-target=null
' "$1"
"""


class Booted:
    """A system whose first process is systemd.

    Args:
        pid: the number of that process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def enter(self, *command: str) -> list[str]:
        """Return the command line that runs a command inside."""
        spaces = [f"--{name}" for name in ("mount", "pid", "net", "uts", "ipc", "cgroup")]
        clean = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root")
        return ["nsenter", f"--target={self.pid}", *spaces, "--root", "--wd", *clean, *command]

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        return subprocess.run(
            self.enter(*command),
            check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
        )  # fmt: skip


@contextlib.contextmanager
def booted(system: Path) -> Iterator[Booted]:
    """Boot the unpacked system, and end all of its processes afterwards."""
    group = f"tailbite-units-{os.getpid()}"
    command = ["unshare", "--mount", "--kill-child", "--fork", "sh", "-c", _BOOT, "sh", str(system), group]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as outer:
        try:
            inside = Booted(_find_init(outer))
            _wait_until_running(inside)
            yield inside
        finally:
            outer.kill()  # and with it, by --kill-child, systemd and its whole PID namespace


def _find_init(outer: subprocess.Popen[str]) -> int:
    """Return the process that is PID 1 of the innermost PID namespace below a process."""
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        if outer.poll() is not None:
            raise SystemExit(f"the system did not start: {outer.stderr.read() if outer.stderr else ''}")
        for pid in _descendants(outer.pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8") == "systemd\n":
                    return pid
        time.sleep(0.1)
    raise SystemExit("systemd did not start")


def _descendants(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()):
            yield child
            yield from _descendants(child)


def _wait_until_running(inside: Booted) -> None:
    end = time.monotonic() + _START_S
    while (state := inside.call("systemctl", "is-system-running").stdout.strip()) not in ("running", "degraded"):
        if time.monotonic() > end:
            raise SystemExit(f"systemd is {state} after {_START_S:.0f} s")
        time.sleep(0.5)
