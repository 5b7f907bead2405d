"""Every self-connected socket of the host, with the processes that hold it and its traffic."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from tailbite.host.see.end_refusal import why_not_ended
from tailbite.host.see.inspect import Inspection
from tailbite.host.see.records import NotVisible
from tailbite.host.see.usage import are_listeners_all, read_usage, usage_here
from tailbite.host.see.visit import call_in_namespace
from tailbite.kernel.end_socket import end_self_connect
from tailbite.kernel.inet_diag import TcpState
from tailbite.kernel.sock_diag import SockDiag
from tailbite.kernel.sysctl import read_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tailbite.core.ports import PortRange
    from tailbite.host.see.records import Namespace, Process
    from tailbite.host.see.snapshot import Snapshot
    from tailbite.kernel.sock_diag import TcpSocket
    from tailbite.kernel.tcp_info import TcpInfo

__all__ = ["Destruction", "Scan", "Sighting", "destroy_self_connects", "scan", "scan_snapshots"]

_FEW: Final = 1000
"""Sockets of a namespace above which some are connections, as a rule, so that listing the listeners gains nothing."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A self-connected socket.

    Attributes:
        namespace: where.
        socket: what the kernel lists.
        traffic: what the kernel counted; None in TIME-WAIT.
        owners: the processes that have it open, as far as they could be seen.
    """

    namespace: Namespace
    socket: TcpSocket
    traffic: TcpInfo | None
    owners: tuple[Process, ...] = ()


@dataclass(frozen=True, slots=True)
class Scan:
    """The self-connects of the host at one moment.

    Attributes:
        taken: when, in seconds since the epoch.
        namespaces: the namespaces that were inspected.
        sightings: what was found.
        not_visible: what could not be inspected.
    """

    taken: float
    namespaces: tuple[Namespace, ...]
    sightings: tuple[Sighting, ...]
    not_visible: tuple[NotVisible, ...]

    @property
    def nothing_found(self) -> str:
        """The sentence for a scan without sightings: where there was nothing."""
        where = "this network namespace" if any(one.is_own for one in self.namespaces) else "that network namespace"
        others = len(self.namespaces) - 1
        more = f" and {others} other{'s' if others > 1 else ''}" if others else ""
        return f"No self-connected TCP socket in {where}{more}."


@dataclass(frozen=True, slots=True)
class Destruction:
    """An attempt to destroy a self-connected socket.

    Attributes:
        sighting: which one.
        refused: why it failed; None if it is gone.
        still_bound: True if its owner had bound the port itself: then the port is the owner's until it closes the
            socket, with or without a connection.
        had_ended: True if it had ended by itself, and there was nothing to destroy.
    """

    sighting: Sighting
    refused: NotVisible | None
    still_bound: bool = False
    had_ended: bool = False


def scan(namespaces: Iterable[Namespace], not_visible: Iterable[NotVisible] = ()) -> Scan:
    """Inspect each namespace. Never raises for what the kernel refuses: that becomes ``not_visible``.

    Args:
        namespaces: the namespaces to inspect.
        not_visible: what could not be seen when the namespaces were looked for.
    """
    taken = time.time()
    sightings: list[Sighting] = []
    unseen = list(not_visible)
    places = []
    for namespace in namespaces:
        usage = read_usage(namespace)
        if usage is not None and usage.is_empty:
            places.append(namespace)
            continue
        try:
            found, not_found = call_in_namespace(namespace, partial(_scan_here, namespace))
        except OSError as error:
            unseen.append(NotVisible.of(str(namespace), error))
            continue
        places.append(namespace)
        sightings += found
        unseen += not_found
    return _with_owners(Scan(taken, tuple(places), tuple(sightings), tuple(unseen)))


def scan_snapshots(snapshots: Iterable[Snapshot]) -> Scan:
    """Return the scan that snapshots taken just now contain, without listing the sockets again."""
    taken = time.time()
    places: list[Namespace] = []
    sightings: list[Sighting] = []
    unseen: list[NotVisible] = []
    for shot in snapshots:
        unseen += shot.not_visible
        if shot.ephemeral is not None:
            places.append(shot.namespace)
        found = zip(shot.self_connects, shot.traffic, strict=True)
        sightings += [Sighting(shot.namespace, socket, traffic) for socket, traffic in found]
    return _with_owners(Scan(taken, tuple(places), tuple(sightings), tuple(unseen)))


def _with_owners(found: Scan) -> Scan:
    if not found.sightings:
        return found
    from tailbite.host.see.processes import find_holders  # only a host that has something pays for the import

    owners, not_seen = find_holders(one.socket for one in found.sightings)
    sightings = tuple(replace(one, owners=owners.get(one.socket.inode, ())) for one in found.sightings)
    return replace(found, sightings=sightings, not_visible=found.not_visible + tuple(not_seen))


def _scan_here(namespace: Namespace) -> tuple[list[Sighting], list[NotVisible]]:
    inspection = Inspection()
    if _has_nothing_connected():
        return [], []
    sockets = inspection.list_sockets(
        f"the sockets of {namespace}", lambda diag: diag.self_connects(_ephemeral_range())
    )
    traffic = inspection.read_traffic(sockets)
    found = [Sighting(namespace, *pair) for pair in zip(sockets, traffic, strict=True)]
    return found, inspection.not_visible


def _has_nothing_connected() -> bool:
    """Tell whether the calling thread's namespace has no TCP socket, or listeners alone."""
    usage = usage_here()
    if usage is None or usage.time_wait or usage.in_use > _FEW:
        return False
    if usage.is_empty:
        return True
    listeners = Inspection().list_sockets("the listening sockets", lambda diag: diag.listing((TcpState.LISTEN,)))
    return are_listeners_all(len(listeners), usage, usage_here())


def _ephemeral_range() -> PortRange | None:
    """It only decides how fast the kernel's filter is, so it matters little if it cannot be read."""
    try:
        return read_ephemeral_range()
    except (OSError, ValueError):
        return None


def destroy_self_connects(sightings: Iterable[Sighting]) -> tuple[Destruction, ...]:
    """Destroy self-connected sockets (SOCK_DESTROY): their owners get ECONNABORTED. Never raises for a refusal.

    Where the kernel cannot destroy a TIME-WAIT, TCP_REPAIR ends it (:mod:`tailbite.kernel.end_socket`).

    What was seen is destroyed and nothing else: the kernel compares the socket's cookie.
    """
    return tuple(_destroy_one(one) for one in sightings)


def _destroy_one(sighting: Sighting) -> Destruction:
    target = sighting.socket
    end = target.endpoints.local
    try:
        still_bound, had_ended = call_in_namespace(sighting.namespace, partial(_destroy, target))
    except OSError as error:
        why = why_not_ended(error, end, target.state)
        return Destruction(sighting, NotVisible(f"{end} in {sighting.namespace}", why, error.errno or 0))
    return Destruction(sighting, None, still_bound, had_ended)


def _destroy(target: TcpSocket) -> tuple[bool, bool]:
    """Destroy a socket of the calling thread's namespace; tell whether its owner has the port bound all the same, and
    whether it had ended before.
    """
    with SockDiag() as diag:
        had_ended = not end_self_connect(diag, target)
        left = diag.listing(local_port=target.endpoints.local.port).sockets
    return any(one.inode and one.inode == target.inode for one in left), had_ended
