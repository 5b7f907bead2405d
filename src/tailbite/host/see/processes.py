"""Who holds a socket: /proc for the link from socket to process, psutil for what a process is."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]

from tailbite.host.see.records import Blind, Process, not_permitted
from tailbite.kernel import procfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tailbite.kernel.sock_diag import TcpSocket

__all__ = ["describe", "holders", "user_name"]


def holders(sockets: Iterable[TcpSocket]) -> tuple[dict[int, tuple[Process, ...]], tuple[Blind, ...]]:
    """Return for each socket's inode the processes that have it open, and what could not be seen of that.

    A socket without an inode (TIME-WAIT, or closed with data still on its way) belongs to no process any more.
    """
    inodes = {one.inode for one in sockets if one.inode}
    if not inodes:
        return {}, ()
    try:
        found = procfs.socket_holders(inodes)
    except OSError as error:
        return {}, (Blind.of("the processes that hold the sockets", error),)
    known: dict[int, Process | None] = {}
    for pid in sorted({pid for pids in found.by_inode.values() for pid in pids}):
        known[pid] = describe(pid)
    owners = {
        inode: tuple(process for pid in pids if (process := known[pid]) is not None)
        for inode, pids in found.by_inode.items()
    }
    blind = []
    if inodes - {inode for inode, some in owners.items() if some}:
        if hidden := procfs.hidden_processes():
            why = f"/proc is mounted with hidepid={hidden}: run as root to see them"
            blind.append(Blind("hidden processes", why))
        elif found.closed:
            blind.append(Blind("the processes of other users", not_permitted("them")))
    return owners, tuple(blind)


def describe(pid: int) -> Process | None:
    """Return what is known of a process, or None if it is gone."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            name, started = process.name(), process.create_time()
            return Process(pid, name, _of(process.cmdline), _of(process.username), started)
    except psutil.NoSuchProcess:
        return None
    except (psutil.Error, OSError):
        return Process(pid, "unknown")


def _of(read: Callable[[], Any]) -> str:
    """Return one fact as text; "" if this process does not show it to this user."""
    try:
        value = read()
    except psutil.AccessDenied:
        return ""
    return shlex.join(value) if isinstance(value, list) else str(value)


def user_name(uid: int) -> str:
    """Return a user's name, or the number where it has none here."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
