"""Processes as /proc shows them (proc(5)): who holds a socket, and which network namespaces there are.

Everything here races with processes that come and go: what is gone is skipped, what is closed to this user is
counted. Of other users' processes nothing of this can be read without root (ptrace(2), PTRACE_MODE_READ), and with
the mount option ``hidepid`` they may not even be listed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = [
    "PROC",
    "Holders",
    "NetworkNamespaces",
    "container_of",
    "hidden_processes",
    "named_namespaces",
    "network_namespaces",
    "own_namespace",
    "parse_mounts",
    "process_ids",
    "read_cgroup",
    "socket_holders",
]

PROC = Path("/proc")

SPARE_DESCRIPTORS = 10_000

_GONE = frozenset({errno.ENOENT, errno.ESRCH})
_CLOSED = frozenset({errno.EACCES, errno.EPERM})
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_NAMESPACE = re.compile(r"net:\[(\d+)\]")
_OCTAL = re.compile(r"\\([0-7]{3})")

# What container managers call the cgroup of a container: docker-<id>.scope, cri-containerd-<id>.scope,
# crio-<id>.scope, libpod-<id>.scope, /docker/<id>, /kubepods/.../<id>; lxc.payload.<name>, /lxc/<name>;
# machine-<name>.scope for systemd-nspawn and libvirt.
_CONTAINERS = (
    re.compile(r"(?:^|[/-])(?P<id>[0-9a-f]{64})(?:\.scope)?(?:/|$)"),
    re.compile(r"/lxc(?:\.payload\.|/)(?P<id>[^/]+)"),
    re.compile(r"/machine-(?P<id>[^/]+)\.scope"),
)


@dataclass(frozen=True, slots=True)
class Holders:
    """Who has sockets open.

    Attributes:
        by_inode: for each inode asked for that some process holds, the pids, ascending.
        closed: how many processes would not show their descriptors to this user.
    """

    by_inode: dict[int, tuple[int, ...]]
    closed: int


@dataclass(frozen=True, slots=True)
class NetworkNamespaces:
    """The network namespaces that processes live in.

    Attributes:
        pids: for each namespace's inode its processes, ascending.
        closed: how many processes would not show their namespace to this user.
    """

    pids: dict[int, tuple[int, ...]]
    closed: int


def process_ids(proc: Path = PROC) -> list[int]:
    """Return the pids that /proc lists, ascending.

    Raises:
        OSError: /proc cannot be read.
    """
    return sorted(int(entry.name) for entry in os.scandir(proc) if entry.name.isdigit())


def socket_holders(inodes: Collection[int], proc: Path = PROC, spare: int = SPARE_DESCRIPTORS) -> Holders:
    """Find the processes that have these sockets open; all of them, for descriptors are inherited and passed on.

    Nothing but a readlink of each descriptor of each process tells, a microsecond or two apiece, which on a host with
    a million sockets takes longer than everything else. So processes with few descriptors come first, and when every
    socket has a holder only so many more descriptors are read: more than most hosts have. A process with more than
    that is not begun with.

    Args:
        inodes: the sockets; 0 is none.
        proc: where /proc is.
        spare: how many descriptors to read at most after every socket has a holder.

    Raises:
        OSError: /proc cannot be read.
    """
    wanted = {f"socket:[{inode}]": inode for inode in inodes if inode}
    found: dict[int, set[int]] = {}
    closed = 0
    for size, pid in _by_size(proc) if wanted else ():
        if len(found) == len(wanted) and size > spare:
            break
        try:
            for target in _descriptors(proc / str(pid) / "fd"):
                if target in wanted:
                    found.setdefault(wanted[target], set()).add(pid)
                if len(found) == len(wanted):
                    spare -= 1
                    if spare < 0:
                        break
        except OSError as error:
            if error.errno not in _GONE:
                closed += 1
        if spare < 0:
            break
    return Holders({inode: tuple(sorted(pids)) for inode, pids in found.items()}, closed)


def _by_size(proc: Path) -> list[tuple[int, int]]:
    """Return the number of descriptors and the pid of each process, ascending."""
    sizes = []
    for pid in process_ids(proc):
        with contextlib.suppress(OSError):  # gone; closed ones can be looked at from outside
            # The size of the folder is the number of its entries since Linux 6.2, and 0 before.
            sizes.append(((proc / str(pid) / "fd").stat().st_size, pid))
    return sorted(sizes)


def _descriptors(folder: Path) -> Iterator[str]:
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(directory):  # noqa: PTH208 - of a descriptor
            try:
                yield os.readlink(name, dir_fd=directory)
            except OSError as error:
                if error.errno not in _GONE:  # closed meanwhile, or the process is a zombie now
                    raise
    finally:
        os.close(directory)


def own_namespace() -> int:
    """Return the inode of the calling thread's network namespace.

    Raises:
        OSError: /proc cannot be read.
    """
    return (PROC / "thread-self/ns/net").stat().st_ino


def network_namespaces(proc: Path = PROC) -> NetworkNamespaces:
    """Find the network namespaces of all processes, each process by its main thread.

    Raises:
        OSError: /proc cannot be read.
    """
    found: dict[int, list[int]] = {}
    closed = 0
    for pid in process_ids(proc):
        try:
            match = _NAMESPACE.fullmatch(str((proc / str(pid) / "ns/net").readlink()))
        except OSError as error:
            closed += error.errno in _CLOSED
            continue
        if match:
            found.setdefault(int(match[1]), []).append(pid)
    return NetworkNamespaces({inode: tuple(pids) for inode, pids in found.items()}, closed)


def named_namespaces(proc: Path = PROC) -> dict[int, Path]:
    """Return the network namespaces that are mounted somewhere: those of ``ip netns``, Docker's, and others.

    Raises:
        OSError: /proc cannot be read.
    """
    found: dict[int, Path] = {}
    for kind, root, point, _ in parse_mounts((proc / "self/mountinfo").read_text(errors="surrogateescape")):
        match = _NAMESPACE.fullmatch(root) if kind == "nsfs" else None
        if match:
            found.setdefault(int(match[1]), Path(point))
    return found


def parse_mounts(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield type, root, mount point and superblock options of each line of ``/proc/PID/mountinfo`` (proc(5))."""
    for line in text.splitlines():
        head, dash, tail = line.partition(" - ")
        fields, rest = head.split(" "), tail.split(" ")
        if dash and len(fields) >= 6 and len(rest) >= 3:
            yield rest[0], _unescape(fields[3]), _unescape(fields[4]), rest[2]


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def hidden_processes(proc: Path = PROC) -> str:
    """Return the ``hidepid`` option that keeps other users' processes from sight, or "" if there is none.

    Nothing is hidden from root (CAP_SYS_PTRACE).

    Linux 5.8 shows it as a word (``invisible``), older kernels as a number; ``subset=pid`` hides other things.
    """
    if os.geteuid() == 0:
        return ""
    try:
        text = (proc / "self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return ""
    options = ""
    for kind, _, point, shown in parse_mounts(text):
        if kind == "proc" and point == str(proc):
            options = shown  # a later mount covers an earlier one
    for option in options.split(","):
        name, _, value = option.partition("=")
        if name == "hidepid" and value not in ("0", "off"):
            return value
    return ""


def read_cgroup(pid: int, proc: Path = PROC) -> str:
    """Return the text of ``/proc/PID/cgroup``; "" if the process is gone or closed to this user."""
    try:
        return (proc / str(pid) / "cgroup").read_text(errors="surrogateescape")
    except OSError:
        return ""


def container_of(cgroup: str) -> str:
    """Return the container that a ``/proc/PID/cgroup`` text tells of: 12 digits of its id, or its name; else ""."""
    for line in cgroup.splitlines():
        path = line.split(":", 2)[-1]
        for pattern in _CONTAINERS:
            # The innermost one is the container; what encloses it may be a node that is a container itself.
            names = [match["id"] for match in pattern.finditer(path)]
            if names:
                return names[-1][:12] if len(names[-1]) == 64 else names[-1]
    return ""
