"""Network namespaces of this host, and the name by which a person knows each of them."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from tailbite.host.see.records import Namespace, NamespaceKind, NotVisible, not_permitted
from tailbite.kernel import procfs

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["UnknownNamespace", "choose_namespaces", "current_namespace", "namespace_of_process", "visible_namespaces"]

_SHOWN_PIDS = 16
_SHOWN_NAMES = 8


class UnknownNamespace(ValueError):  # noqa: N818 - as NamespaceUnavailable
    """No network namespace goes by that name here; the message says what there is."""


def current_namespace() -> Namespace:
    """Return the calling thread's network namespace."""
    try:
        inode = procfs.own_namespace()
    except OSError:
        inode = 0
    return Namespace(inode, NamespaceKind.OWN, "this namespace")


def visible_namespaces() -> tuple[tuple[Namespace, ...], tuple[NotVisible, ...]]:
    """Return every network namespace that can be seen, the caller's own first, and what could not be seen.

    Found are those of processes and those that are mounted (``ip netns``, Docker). One that only an open
    descriptor keeps alive has no name to find it by.
    """
    mine = current_namespace()
    not_visible = []
    pids: dict[int, tuple[int, ...]] = {}
    try:
        living = procfs.network_namespaces()
        mounted = procfs.named_namespaces()
    except FileNotFoundError:  # no process ended meanwhile, none can be listed at all
        return (mine,), (NotVisible("the other network namespaces", "/proc is not mounted here"),)
    except OSError as error:
        return (mine,), (NotVisible.of("the other network namespaces", error),)
    if living.closed:
        not_visible.append(_closed(living.closed))
    if hidden := procfs.hidden_processes():
        not_visible.append(
            NotVisible(
                "the network namespaces of hidden processes", f"/proc is mounted with hidepid={hidden}: run as root"
            )
        )
    pids = living.pids
    found = [Namespace(mine.inode, mine.kind, mine.name, "", pids.get(mine.inode, ())[:_SHOWN_PIDS])]
    for inode in sorted({*pids, *mounted} - {mine.inode}):
        path = mounted.get(inode, "")
        found.append(_named(inode, pids.get(inode, ()), path))
    return tuple(found), tuple(not_visible)


def choose_namespaces(wanted: str) -> tuple[tuple[Namespace, ...], tuple[NotVisible, ...]]:
    """Return the namespaces that ``--netns`` names: ``all``, ``self``, a pid, or a name of a visible one.

    Raises:
        UnknownNamespace: nothing goes by that name.
    """
    if wanted == "self":
        return (current_namespace(),), ()
    found, not_visible = visible_namespaces()
    if wanted == "all":
        return found, not_visible
    if wanted.isascii() and wanted.isdigit():
        return (_of_process(int(wanted), found),), ()
    matches = [one for one in found if wanted in (one.name, f"net:[{one.inode}]") and not one.is_own]
    if not matches:
        # Here only the name counts; a namespace that cannot be entered is reported later.
        known = list(dict.fromkeys(one.name for one in found if not one.is_own))
        more = [f"{len(known) - _SHOWN_NAMES} more"] if len(known) > _SHOWN_NAMES else []
        names = ", ".join(known[:_SHOWN_NAMES] + more) or "none but this one"
        hint = "; some could not be seen" if not_visible else ""
        raise UnknownNamespace(f"no network namespace is called {wanted!r}; visible: {names}{hint}")
    return tuple(matches), ()


def _of_process(pid: int, found: Iterable[Namespace]) -> Namespace:
    try:
        inode = os.stat(f"{procfs.PROC}/{pid}/ns/net").st_ino  # noqa: PTH116
    except PermissionError:
        raise UnknownNamespace(f"the network namespace of process {pid} cannot be seen: {not_permitted()}") from None
    except OSError:
        raise UnknownNamespace(f"there is no process {pid}") from None
    return next((one for one in found if one.inode == inode), None) or _named(inode, (pid,), "")


def namespace_of_process(pid: int) -> Namespace:
    """Return the network namespace that a process is in.

    Raises:
        OSError: the process is gone, or its namespace is not visible to this user.
    """
    inode = os.stat(f"{procfs.PROC}/{pid}/ns/net").st_ino  # noqa: PTH116
    mine = current_namespace()
    return mine if inode == mine.inode else _named(inode, (pid,), "")


def _closed(count: int) -> NotVisible:
    who = "1 process" if count == 1 else f"{count} processes"
    return NotVisible(f"the network namespace of {who}", not_permitted(), errno.EACCES)


def _named(inode: int, pids: tuple[int, ...], mounted: str) -> Namespace:
    path = mounted or f"/proc/{pids[0]}/ns/net"
    shown = pids[:_SHOWN_PIDS]
    container = next(filter(None, map(_container, shown)), "")
    if container:
        return Namespace(inode, NamespaceKind.CONTAINER, container, path, shown)
    if mounted.startswith(("/run/netns/", "/var/run/netns/")):
        return Namespace(inode, NamespaceKind.NAMED, mounted.rpartition("/")[2], path, shown)
    if pids:
        return Namespace(inode, NamespaceKind.PROCESS, f"{_comm(pids[0])}/{pids[0]}", path, shown)
    return Namespace(inode, NamespaceKind.NAMED, mounted, path, shown)


def _container(pid: int) -> str:
    """Return the container of a process; "" if it is in none, or in the one that we are in."""
    name = procfs.container_of(procfs.read_cgroup(pid))
    return "" if name and name == procfs.container_of(procfs.read_cgroup("self")) else name


def _comm(pid: int) -> str:
    try:
        with open(f"{procfs.PROC}/{pid}/comm", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read().removesuffix("\n")
    except OSError:
        return "gone"
