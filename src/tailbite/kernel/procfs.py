"""Processes as /proc shows them (proc(5)): the holders of sockets, and the network namespaces.

Everything here races with processes that start and end: a process that is gone is skipped, one that this user may not
read is counted. None of this can be read of other users' processes without root (ptrace(2), PTRACE_MODE_READ), and
with the mount option ``hidepid`` they may not even be listed.

No pathlib and no regular expression that is compiled before it is needed: a host has thousands of processes, and a
scan of one that has few would spend most of its time on loading them.
"""
# ruff: noqa: PTH115, PTH116, PTH123

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

__all__ = [
    "PROC",
    "Holders",
    "NetworkNamespaces",
    "container_of",
    "containers_in",
    "hidden_processes",
    "is_in_pid_namespace",
    "named_namespaces",
    "network_namespaces",
    "own_namespace",
    "parse_mounts",
    "process_ids",
    "read_cgroup",
    "socket_holders",
    "unescape_unit",
]

PROC: Path | str = "/proc"

SPARE_DESCRIPTORS = 10_000

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_GONE = frozenset({errno.ENOENT, errno.ESRCH})
_CLOSED = frozenset({errno.EACCES, errno.EPERM})

# The names that container managers give the cgroup of a container: docker-<id>.scope, cri-containerd-<id>.scope,
# crio-<id>.scope, libpod-<id>.scope, /docker/<id>, /libpod_parent/libpod-<id>, /kubepods/.../<id>,
# kubepods-....slice:cri-containerd:<id>; lxc.payload.<name>, /lxc/<name>; machine-<name>.scope for systemd-nspawn
# and libvirt, where systemd writes what its unit names may not hold as \x2d (systemd.unit(5)).
# A system in a container of systemd-nspawn has its cgroups below /systemd-nspawn@<name>.service/payload.
_CONTAINERS = (
    r"(?:^|[/:-])([0-9a-f]{64})(?:\.scope)?(?=/|$)",
    r"/lxc(?:\.payload\.|/)([^/]+)",
    r"/machine-([^/]+)\.scope",
    r"/systemd-nspawn@([^/]+)\.service/payload",
)


@dataclass(frozen=True, slots=True)
class Holders:
    """The processes that have sockets open.

    Attributes:
        by_inode: for each inode asked for that some process holds, the pids, ascending.
        closed: the number of processes whose descriptors this user may not read.
    """

    by_inode: dict[int, tuple[int, ...]]
    closed: int


@dataclass(frozen=True, slots=True)
class NetworkNamespaces:
    """The network namespaces that processes live in.

    Attributes:
        pids: for each namespace's inode its processes, ascending.
        closed: the number of processes whose namespace this user may not read.
    """

    pids: dict[int, tuple[int, ...]]
    closed: int


def process_ids(proc: Path | str = PROC) -> list[int]:
    """Return the pids that /proc lists, ascending.

    Raises:
        OSError: /proc cannot be read.
    """
    return sorted(int(entry.name) for entry in os.scandir(proc) if entry.name.isdigit())


def socket_holders(inodes: Collection[int], proc: Path | str = PROC, spare: int = SPARE_DESCRIPTORS) -> Holders:
    """Find all processes that have these sockets open: descriptors are inherited and passed on.

    The only way is a readlink of each descriptor of each process. It takes a microsecond or two each, which on a host
    with a million sockets is longer than everything else. So processes with few descriptors come first, and when
    every socket has a holder, at most ``spare`` more descriptors are read, more than most hosts have. A process with
    more descriptors than that is skipped then.

    Args:
        inodes: the sockets; 0 is ignored.
        proc: the mount point of /proc.
        spare: the most descriptors to read after every socket has a holder.

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
            for target in _descriptors(f"{proc}/{pid}/fd"):
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


def _by_size(proc: Path | str) -> list[tuple[int, int]]:
    """Return the number of descriptors and the pid of each process, ascending."""
    sizes = []
    for pid in process_ids(proc):
        with contextlib.suppress(OSError):  # gone; the size can be read of a folder that cannot be listed
            # The size of the folder is the number of its entries since Linux 6.2, and 0 before.
            sizes.append((os.stat(f"{proc}/{pid}/fd").st_size, pid))
    return sorted(sizes)


def _descriptors(folder: str) -> Iterator[str]:
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
    return os.stat(f"{PROC}/thread-self/ns/net").st_ino


def network_namespaces(proc: Path | str = PROC) -> NetworkNamespaces:
    """Find the network namespaces of all processes, each process by its main thread.

    Raises:
        OSError: /proc cannot be read.
    """
    found: dict[int, list[int]] = {}
    closed = 0
    for pid in process_ids(proc):
        try:
            inode = _namespace(os.readlink(f"{proc}/{pid}/ns/net"))
        except OSError as error:
            closed += error.errno in _CLOSED
            continue
        if inode:
            found.setdefault(inode, []).append(pid)
    return NetworkNamespaces({inode: tuple(pids) for inode, pids in found.items()}, closed)


def _namespace(text: str) -> int:
    """Return the number in ``net:[4026531840]``, or 0."""
    number = text.removeprefix("net:[").removesuffix("]")
    return int(number) if number.isdecimal() and text == f"net:[{number}]" else 0


def named_namespaces(proc: Path | str = PROC) -> dict[int, str]:
    """Return the network namespaces that are mounted somewhere: those of ``ip netns``, Docker and others.

    Raises:
        OSError: /proc cannot be read.
    """
    found: dict[int, str] = {}
    for kind, root, point, _ in parse_mounts(_read(f"{proc}/self/mountinfo")):
        if kind == "nsfs" and (inode := _namespace(root)):
            found.setdefault(inode, point)
    return found


def parse_mounts(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield type, root, mount point and superblock options of each line of ``/proc/PID/mountinfo`` (proc(5))."""
    for line in text.splitlines():
        head, dash, tail = line.partition(" - ")
        fields, rest = head.split(" "), tail.split(" ")
        if dash and len(fields) >= 6 and len(rest) >= 3:
            yield rest[0], _unescape(fields[3]), _unescape(fields[4]), rest[2]


def unescape_unit(name: str) -> str:
    """Return the name that systemd wrote with \\x2d and the like (systemd.unit(5))."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), name) if "\\" in name else name


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def hidden_processes(proc: Path | str = PROC) -> str:
    """Return the ``hidepid`` option that hides other users' processes, or "" without one.

    Nothing is hidden from root (CAP_SYS_PTRACE).

    Linux 5.8 shows it as a word (``invisible``), older kernels as a number; ``subset=pid`` hides other files.
    """
    if os.geteuid() == 0:
        return ""
    try:
        text = _read(f"{proc}/self/mountinfo")
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


def is_in_pid_namespace() -> bool:
    """Tell whether /proc is that of a PID namespace, as in a container, which does not list processes outside."""
    try:
        return os.stat(f"{PROC}/self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE
    except OSError:
        return False


def read_cgroup(pid: int | str, proc: Path | str = PROC) -> str:
    """Return the text of ``/proc/PID/cgroup``; "" if the process is gone or this user may not read it."""
    try:
        return _read(f"{proc}/{pid}/cgroup")
    except OSError:
        return ""


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


@cache
def _container_pattern() -> re.Pattern[str]:
    return re.compile("|".join(_CONTAINERS))


def container_of(cgroup: str) -> str:
    """Return the container named in the text of ``/proc/PID/cgroup``: 12 digits of its id, or its name; else ""."""
    for line in cgroup.splitlines():
        # The innermost one is the container; what encloses it may be a node that is a container itself.
        if found := containers_in(line.split(":", 2)[-1]):
            return found[-1][0]
    return ""


def containers_in(path: str) -> tuple[tuple[str, int], ...]:
    """Return the containers in the path of a cgroup, the outermost first: the name, and where the name ends."""
    found = []
    for match in _container_pattern().finditer(path):
        name = match[match.lastindex or 0]
        found.append((name[:12] if len(name) == 64 else unescape_unit(name), match.end()))
    return tuple(found)
