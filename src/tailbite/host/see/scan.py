"""Every self-connected socket of the host, with who holds it and what went through it."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from tailbite.errors import NetlinkError
from tailbite.host.see.inspect import Inspection
from tailbite.host.see.records import NotVisible
from tailbite.host.see.visit import call_in_namespace
from tailbite.kernel.sock_diag import SockDiag
from tailbite.kernel.sysctl import read_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tailbite.core.ports import PortRange
    from tailbite.host.see.records import Namespace, Process
    from tailbite.kernel.sock_diag import TcpSocket
    from tailbite.kernel.tcp_info import TcpInfo

__all__ = ["Destruction", "Scan", "Sighting", "destroy_self_connects", "scan"]


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
    """One look at the host.

    Attributes:
        taken: when, in seconds since the epoch.
        namespaces: where we looked.
        sightings: what was found.
        not_visible: what could not be looked at.
    """

    taken: float
    namespaces: tuple[Namespace, ...]
    sightings: tuple[Sighting, ...]
    not_visible: tuple[NotVisible, ...]


@dataclass(frozen=True, slots=True)
class Destruction:
    """An attempt to destroy a self-connected socket.

    Attributes:
        sighting: which one.
        refused: why it failed; None if it is gone.
        still_bound: True if its owner had bound the port itself: then the port is the owner's until it closes the
            socket, with or without a connection.
    """

    sighting: Sighting
    refused: NotVisible | None
    still_bound: bool = False


def scan(namespaces: Iterable[Namespace], not_visible: Iterable[NotVisible] = ()) -> Scan:
    """Look into each namespace. Never raises for what the kernel refuses: that becomes ``not_visible``.

    Args:
        namespaces: where to look.
        not_visible: what could not be seen when the namespaces were looked for.
    """
    taken = time.time()
    sightings: list[Sighting] = []
    unseen = list(not_visible)
    places = []
    for namespace in namespaces:
        try:
            found, not_found = call_in_namespace(namespace, partial(_look, namespace))
        except OSError as error:
            unseen.append(NotVisible.of(str(namespace), error))
            continue
        places.append(namespace)
        sightings += found
        unseen += not_found
    if sightings:
        from tailbite.host.see.processes import (
            find_holders,  # with psutil: only a host that has something waits for it
        )

        owners, not_seen = find_holders(one.socket for one in sightings)
        unseen += not_seen
        sightings = [replace(one, owners=owners.get(one.socket.inode, ())) for one in sightings]
    return Scan(taken, tuple(places), tuple(sightings), tuple(unseen))


def _look(namespace: Namespace) -> tuple[list[Sighting], list[NotVisible]]:
    inspection = Inspection()
    sockets = inspection.list_sockets(
        f"the sockets of {namespace}", lambda diag: diag.self_connects(_ephemeral_range())
    )
    if not sockets:
        return [], inspection.not_visible
    with SockDiag() as diag:
        found = [
            Sighting(namespace, one, inspection.read("the traffic", partial(diag.traffic, one))) for one in sockets
        ]
    return found, inspection.not_visible


def _ephemeral_range() -> PortRange | None:
    """It only decides how fast the kernel's filter is, so it matters little if it cannot be read."""
    try:
        return read_ephemeral_range()
    except (OSError, ValueError):
        return None


def destroy_self_connects(sightings: Iterable[Sighting]) -> tuple[Destruction, ...]:
    """Destroy self-connected sockets (SOCK_DESTROY): their owners get ECONNABORTED. Never raises for a refusal.

    What was seen is destroyed and nothing else: the kernel compares the socket's cookie.
    """
    return tuple(_kill(one) for one in sightings)


def _kill(sighting: Sighting) -> Destruction:
    target = sighting.socket
    what = f"{target.endpoints.local} in {sighting.namespace}"
    try:
        return Destruction(sighting, None, call_in_namespace(sighting.namespace, partial(_destroy, target)))
    except OSError as error:
        return Destruction(sighting, NotVisible.of(what, error))


def _destroy(target: TcpSocket) -> bool:
    """Destroy a socket of the calling thread's namespace; tell whether its owner has the port bound all the same."""
    with SockDiag() as diag:
        try:
            diag.destroy(target)
        except NetlinkError as error:
            if error.errno != errno.ENOENT:  # then it is gone, which is what was wanted
                raise
        left = diag.listing(local_port=target.endpoints.local.port).sockets
    return any(one.inode and one.inode == target.inode for one in left)
