"""Holders of sockets that ``/proc/PID/fd`` does not show: threads with a descriptor table of their own, and io_uring.

A thread that called ``unshare(CLONE_FILES)`` has descriptors of its own (unshare(2)), and when the main thread of a
process has ended, the table of the process is listed below the other threads only (pthread_exit(3)). A socket that is
registered with io_uring (io_uring_register(2), IORING_REGISTER_FILES) stays open without a descriptor; the kernel
prints the files of a ring in ``/proc/PID/fdinfo`` (io_uring/fdinfo.c), but Linux 5.10 does not name sockets.

These are read only for sockets that no process seems to have.
"""
# ruff: noqa: PTH115, PTH116, PTH123

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from tailbite.kernel.kcmp import shares_descriptors
from tailbite.kernel.procfs import PROC, process_ids

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

__all__ = ["hidden_holders"]

_RING: Final = "anon_inode:[io_uring]"
_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")


def hidden_holders(inodes: Collection[int], proc: Path | str = PROC) -> dict[int, tuple[int, ...]]:
    """Return the processes that have these sockets open without showing them in ``/proc/PID/fd``.

    A process that is gone, or that this user may not read, is skipped.

    Args:
        inodes: the sockets; 0 is ignored.
        proc: the mount point of /proc.

    Raises:
        OSError: /proc cannot be read.
    """
    wanted = {inode for inode in inodes if inode}
    found: dict[int, set[int]] = {}
    for pid in process_ids(proc) if wanted else ():
        for inode in _sockets_of(f"{proc}/{pid}", pid) & wanted:
            found.setdefault(inode, set()).add(pid)
    return {inode: tuple(sorted(pids)) for inode, pids in found.items()}


def _sockets_of(folder: str, pid: int) -> set[int]:
    """Return the inodes of the sockets in the tables of the threads, and of those registered with io_uring."""
    found = _registered(folder)
    for thread in _other_tables(folder, pid):
        found |= {int(match[1]) for _, link in _links(f"{folder}/task/{thread}/fd") if (match := _SOCKET.match(link))}
        found |= _registered(f"{folder}/task/{thread}")
    return found


def _registered(folder: str) -> set[int]:
    found: set[int] = set()
    for name, link in _links(f"{folder}/fd"):
        if link == _RING:
            found |= {int(number) for number in _SOCKET.findall(_read(f"{folder}/fdinfo/{name}"))}
    return found


def _other_tables(folder: str, pid: int) -> Iterator[int]:
    """Yield one thread for each descriptor table of a process besides that of its main thread."""
    try:
        if os.stat(f"{folder}/task").st_nlink <= 3:  # ".", ".." and one thread
            return
        threads = [int(name) for name in os.listdir(f"{folder}/task")]  # noqa: PTH208
    except OSError:
        return
    known = [pid]
    for thread in sorted(set(threads) - {pid}):
        if not any(shares_descriptors(one, thread) for one in known):
            known.append(thread)
            yield thread


def _links(folder: str) -> Iterator[tuple[str, str]]:
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return
    for name in names:
        try:
            yield name, os.readlink(f"{folder}/{name}")
        except OSError:
            continue


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
