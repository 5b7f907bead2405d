"""Processes behind sockets: who holds one, and who is responsible (user, unit, container, parent).

Everything comes from /proc (proc(5)) and the cgroup's path (cgroups(7), systemd's "unit file names in cgroups").
"""
# ruff: noqa: PTH116, PTH123

from __future__ import annotations

import errno
import os
import shlex
from functools import cache
from typing import TYPE_CHECKING

from tailbite.host.see.managers import manager_of
from tailbite.host.see.records import NotVisible, Process, not_permitted
from tailbite.host.see.supervisors import supervisor_of
from tailbite.kernel import procfs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tailbite.kernel.sock_diag import TcpSocket

__all__ = ["describe_process", "find_holders", "find_inode_holders", "user_name"]

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def find_holders(sockets: Iterable[TcpSocket]) -> tuple[dict[int, tuple[Process, ...]], tuple[NotVisible, ...]]:
    """Return for each socket's inode the processes that have it open, and what could not be seen of that.

    A socket without an inode (TIME-WAIT, or closed with data still on its way) no longer belongs to a process.
    """
    return _described({one.inode for one in sockets if one.inode})


def find_inode_holders(inodes: Iterable[int]) -> tuple[dict[int, tuple[Process, ...]], tuple[NotVisible, ...]]:
    """Return the same as :func:`find_holders` for sockets that are known by inode only."""
    return _described({inode for inode in inodes if inode})


def _described(inodes: set[int]) -> tuple[dict[int, tuple[Process, ...]], tuple[NotVisible, ...]]:
    if not inodes:
        return {}, ()
    try:
        found = procfs.socket_holders(inodes)
    except OSError as error:
        return {}, (NotVisible.of("the processes that hold the sockets", error),)
    by_inode = {**found.by_inode, **_hidden(inodes - found.by_inode.keys())}
    known: dict[int, Process | None] = {}
    for pid in sorted({pid for pids in by_inode.values() for pid in pids}):
        known[pid] = describe_process(pid)
    owners = {
        inode: tuple(process for pid in pids if (process := known[pid]) is not None)
        for inode, pids in by_inode.items()
    }
    not_visible = []
    if inodes - {inode for inode, some in owners.items() if some}:
        if hidden := procfs.hidden_processes():
            why = f"/proc is mounted with hidepid={hidden}: run as root to see them"
            not_visible.append(NotVisible("hidden processes", why, errno.EACCES))
        elif found.closed:
            not_visible.append(NotVisible("the processes of other users", not_permitted("see them"), errno.EACCES))
    return owners, tuple(not_visible)


def _hidden(inodes: set[int]) -> dict[int, tuple[int, ...]]:
    """Return the holders of sockets that no process shows in the usual place."""
    if not inodes:
        return {}
    from tailbite.kernel.hidden_holders import hidden_holders  # only a host that has such sockets pays for the import

    return hidden_holders(inodes)


def describe_process(pid: int) -> Process | None:
    """Return what is known of a process, or None if it is gone."""
    folder = f"{procfs.PROC}/{pid}"
    try:
        uid = os.stat(folder).st_uid
        name, parent, ticks = _parse_stat(_read(f"{folder}/stat"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    except (OSError, ValueError):
        return Process(pid, "unknown")
    cgroup = procfs.read_cgroup(pid)
    found = manager_of(cgroup, procfs.read_cgroup("self"))
    return Process(
        pid,
        name,
        _command(folder),
        user_name(uid),
        _boot_time() + ticks / _CLOCK_TICKS if _boot_time() else None,
        parent,
        _parent_name(parent),
        found.unit,
        found.uid is not None,
        found.container,
        found.runtime,
        found.within,
        "" if found.uid in (None, os.geteuid()) else user_name(found.uid or 0),
        supervisor_of(pid, cgroup),
    )


def _parse_stat(text: str) -> tuple[str, int, int]:
    """Return name, parent and start time in clock ticks since boot; the name may hold blanks and parentheses.

    Raises:
        ValueError: the text is not that of ``/proc/PID/stat``.
    """
    before, _, after = text.rpartition(")")
    fields = after.split()
    return before.partition("(")[2], int(fields[1]), int(fields[19])


def _command(folder: str) -> str:
    try:
        words = _read(f"{folder}/cmdline").split("\0")
    except OSError:
        return ""
    while words and not words[-1]:
        words.pop()
    return shlex.join(words)


def _parent_name(pid: int) -> str:
    if not pid:
        return ""
    try:
        return _read(f"{procfs.PROC}/{pid}/comm").removesuffix("\n")
    except OSError:
        return ""


@cache
def _boot_time() -> float:
    """Return when this system was started, in seconds since the epoch; 0.0 if /proc does not say."""
    try:
        lines = _read(f"{procfs.PROC}/stat").splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("btime ")))
    except (OSError, StopIteration, ValueError):
        return 0.0


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def user_name(uid: int) -> str:
    """Return a user's name, or the number where it has none here."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
