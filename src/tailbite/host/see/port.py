"""Everything that uses one port, in this network namespace and in the others: what ``why`` judges.

An inspection never disturbs the port. A probe that connected would be seen by a listener, and could connect to
itself. A probe that bound the port, even for a microsecond and without listening, would make a server that starts in
that microsecond fail with EADDRINUSE, and would drive waiting clients to other source ports. So nothing here connects
to the port or binds it. The kernel's tables are read, and what a bind would meet is worked out from them
(:mod:`tailbite.host.explain.bind_forecast`).
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from tailbite.host.see.abilities import lists_bound_sockets
from tailbite.host.see.inspect import Inspection
from tailbite.host.see.other_protocols import OtherUse, other_protocol_uses
from tailbite.host.see.own_address import ask_address
from tailbite.host.see.records import NotVisible
from tailbite.host.see.redirects import NO_REDIRECTS, Redirects, redirects_of
from tailbite.host.see.usage import read_usage, usage_here
from tailbite.host.see.visit import call_in_namespace
from tailbite.kernel.capabilities import CAP_NET_BIND_SERVICE, has_capability
from tailbite.kernel.inet_diag import CONNECTION_STATES, TcpState
from tailbite.kernel.procfs import is_in_pid_namespace
from tailbite.kernel.sock_diag import SockDiag
from tailbite.kernel.sysctl import has_random_steps, read_ephemeral_range, read_reserved_ports, read_sysctl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from tailbite.core.ports import PortRange, PortSet
    from tailbite.host.see.records import Namespace, Process
    from tailbite.kernel.sock_diag import TcpSocket
    from tailbite.kernel.tcp_info import TcpInfo

__all__ = ["PortSnapshot", "PortUse", "connected_ports", "inspect_port", "inspect_sockets"]


@dataclass(frozen=True, slots=True)
class PortUse:
    """A TCP socket whose local port is the one in question.

    Attributes:
        socket: what the kernel lists.
        traffic: what the kernel counted, for connections that are not in TIME-WAIT.
        owners: the processes that have it open, as far as they could be seen.
    """

    socket: TcpSocket
    traffic: TcpInfo | None = None
    owners: tuple[Process, ...] = ()


@dataclass(frozen=True, slots=True)
class PortSnapshot:
    """One port in one network namespace.

    Attributes:
        namespace: the namespace.
        port: the port.
        uses: the TCP sockets on it.
        listening: every port that a server listens on in this namespace.
        ephemeral: ``ip_local_port_range``; None if unknown.
        reserved: ``ip_local_reserved_ports``; None if unknown.
        privileged_below: ``ip_unprivileged_port_start``.
        may_bind_privileged: True if this process has CAP_NET_BIND_SERVICE.
        sees_bound: True if this kernel lists sockets that are only bound (Linux 6.8).
        sees_processes: True if no process was hidden when the owners were looked for, so that a socket without one
            belongs to no process.
        others: sockets of other protocols with the same number.
        redirects: rules that answer for the port in front of all sockets.
        not_visible: what could not be inspected.
        has_random_steps: ``ip_local_port_step_width`` is set.
        devices: the names of the network devices, by their index.
        in_pid_namespace: True if processes outside this one's PID namespace cannot be seen.
        opens_simultaneously: False if ``tcp_simult_connect`` is 0 (linux-hardened): no self-connect can complete.
        absent: the addresses of listeners on the port that this host does not have.
        as_root: True if this process is root, so that running it as root would show no more.
    """

    namespace: Namespace
    port: int
    uses: tuple[PortUse, ...]
    listening: frozenset[int]
    ephemeral: PortRange | None
    reserved: PortSet | None
    privileged_below: int
    may_bind_privileged: bool
    sees_bound: bool
    sees_processes: bool = True
    others: tuple[OtherUse, ...] = ()
    redirects: Redirects = NO_REDIRECTS
    not_visible: tuple[NotVisible, ...] = ()
    has_random_steps: bool = False
    devices: Mapping[int, str] = field(default_factory=dict)
    as_root: bool = False
    absent: frozenset[str] = frozenset()
    opens_simultaneously: bool = True
    in_pid_namespace: bool = False

    def in_states(self, *states: TcpState) -> tuple[PortUse, ...]:
        """Return the uses in these states."""
        return tuple(use for use in self.uses if use.socket.state in states)


def inspect_port(port: int, namespaces: Iterable[Namespace]) -> tuple[PortSnapshot, ...]:
    """Inspect a port in the first namespace, and list the sockets on it in the others, of which a host has hundreds.

    Never raises for what the kernel refuses: that becomes ``not_visible``.
    """
    first, *others = namespaces
    return _inspect_all(
        [partial(_inspect, port, first, _inspect_here), *(partial(_inspect, port, one, _list_here) for one in others)]
    )


def inspect_sockets(places: Iterable[tuple[int, Namespace]]) -> tuple[PortSnapshot, ...]:
    """Inspect several ports, each in a namespace, without other protocols and rules; raises as :func:`inspect_port`.

    The processes behind all of them are looked for once.
    """
    return _inspect_all([partial(_inspect, port, namespace, _inspect_sockets) for port, namespace in places])


def connected_ports(namespace: Namespace, among: AbstractSet[int]) -> frozenset[int]:
    """Return those of some ports that a connection or a TIME-WAIT has as its local port.

    Raises:
        OSError: the sockets could not be listed.
    """
    counts = read_usage(namespace)
    if not among or (counts is not None and counts.is_empty):
        return frozenset()
    return call_in_namespace(namespace, partial(_connected_here, among))


def _connected_here(among: AbstractSet[int]) -> frozenset[int]:
    with SockDiag() as diag:
        found = {payload[4] << 8 | payload[5] for payload in diag.payloads(CONNECTION_STATES)}
    return frozenset(found & among)


def _inspect_all(inspections: list[Callable[[], PortSnapshot]]) -> tuple[PortSnapshot, ...]:
    shots = _with_owners([inspect() for inspect in inspections])
    if doubtful := [number for number, shot in enumerate(shots) if shot.sees_processes and _seems_ownerless(shot)]:
        # A process may have ended between the two lists: a socket that is there in a second list has no owner.
        for number, shot in zip(doubtful, _with_owners([inspections[number]() for number in doubtful]), strict=True):
            shots[number] = shot
    return tuple(shots)


def _seems_ownerless(shot: PortSnapshot) -> bool:
    return any(use.socket.inode and not use.owners for use in shot.uses)


def _with_owners(shots: list[PortSnapshot]) -> list[PortSnapshot]:
    inodes = {use.socket.inode for shot in shots for use in shot.uses}
    inodes |= {other.inode for shot in shots for other in shot.others}
    if not any(inodes):
        return shots
    from tailbite.host.see.processes import find_inode_holders

    owners, unseen = find_inode_holders(inodes)
    return [
        replace(
            shot,
            uses=tuple(replace(use, owners=owners.get(use.socket.inode, ())) for use in shot.uses),
            others=tuple(replace(other, owners=owners.get(other.inode, ())) for other in shot.others),
            sees_processes=not unseen,
            not_visible=shot.not_visible + (unseen if any(use.socket.inode for use in shot.uses) else ()),
        )
        for shot in shots
    ]


def _inspect(port: int, namespace: Namespace, inspect: Callable[[int, Namespace], PortSnapshot]) -> PortSnapshot:
    try:
        return call_in_namespace(namespace, partial(inspect, port, namespace))
    except OSError as error:
        not_visible = NotVisible.of(str(namespace), error)
        return PortSnapshot(
            namespace, port, (), frozenset(), None, None, 1024, False, False, not_visible=(not_visible,)
        )


def _inspect_here(port: int, namespace: Namespace) -> PortSnapshot:
    shot = _inspect_sockets(port, namespace)
    return replace(shot, others=other_protocol_uses(port), redirects=redirects_of(port))


def _list_here(port: int, namespace: Namespace) -> PortSnapshot:
    inspection = Inspection()
    usage = usage_here()
    sockets: tuple[TcpSocket, ...] = ()
    if usage is None or usage.sockets or not usage.is_empty:  # sockets that are bound only are among the former
        sockets = inspection.list_sockets(f"the sockets on port {port}", lambda diag: diag.listing(local_port=port))
    return PortSnapshot(
        namespace,
        port,
        tuple(map(PortUse, sockets)),
        frozenset(),
        None,
        None,
        1024,
        may_bind_privileged=False,
        sees_bound=lists_bound_sockets(),
        not_visible=tuple(inspection.not_visible),
    )


def _inspect_sockets(port: int, namespace: Namespace) -> PortSnapshot:
    inspection = Inspection()
    sockets = inspection.list_sockets(f"the sockets on port {port}", lambda diag: diag.listing(local_port=port))
    listeners = inspection.list_sockets("the listening sockets", lambda diag: diag.listing((TcpState.LISTEN,)))
    with contextlib.ExitStack() as stack:
        diag = stack.enter_context(SockDiag()) if sockets else None
        uses = tuple(PortUse(one, _traffic(diag, one)) for one in sockets)
    start = read_sysctl("ip_unprivileged_port_start")
    return PortSnapshot(
        namespace=namespace,
        port=port,
        uses=uses,
        listening=frozenset(one.endpoints.local.port for one in listeners),
        ephemeral=inspection.read("the ephemeral port range", read_ephemeral_range),
        reserved=inspection.read("the reserved ports", read_reserved_ports),
        privileged_below=int(start) if start and start.isdigit() else 1024,
        may_bind_privileged=has_capability(CAP_NET_BIND_SERVICE),
        sees_bound=lists_bound_sockets(),
        not_visible=tuple(inspection.not_visible),
        has_random_steps=has_random_steps(),
        devices=_devices(),
        as_root=os.geteuid() == 0,
        in_pid_namespace=is_in_pid_namespace(),
        opens_simultaneously=read_sysctl("tcp_simult_connect") != "0",
        absent=frozenset(_absent(one) for one in sockets if one.state is TcpState.LISTEN) - {""},
    )


def _absent(one: TcpSocket) -> str:
    """Return the local address of a socket if it does not belong to this host, else ""."""
    end = one.endpoints.local
    host = f"{end.host}%{one.interface}" if one.interface and end.host.startswith("fe80:") else end.host
    try:
        return "" if ask_address(host).is_own else end.host
    except OSError:
        return ""


def _devices() -> dict[int, str]:
    try:
        return dict(socket.if_nameindex())
    except OSError:
        return {}


def _traffic(diag: SockDiag | None, one: TcpSocket) -> TcpInfo | None:
    if diag is None or not one.endpoints.remote.port:
        return None
    try:
        return diag.traffic(one)
    except OSError:
        return None  # a figure less; the socket itself is listed
