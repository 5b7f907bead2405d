"""Everything that uses one port, in this network namespace and in the others: what ``why`` judges.

Looking never disturbs the port. A probe that connected would be seen by a listener, and could connect to itself; one
that bound the port, even for a microsecond and without listening, would make a server that starts in that
microsecond fail with EADDRINUSE, and would drive waiting clients to other source ports. So nothing here connects or
binds TCP at all. The kernel's tables are read, and what a bind would meet is worked out from them
(:mod:`tailbite.host.explain.bind_forecast`). Whether an address belongs to this host is asked with a UDP socket
bound to port 0: TCP and UDP have separate ports, so no TCP port is touched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from tailbite.host.see.inspect import Look
from tailbite.host.see.records import Blind
from tailbite.host.see.visit import visit
from tailbite.kernel.sock_diag import SockDiag, TcpState
from tailbite.kernel.sysctl import read_ephemeral_range, read_reserved_ports, read_sysctl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tailbite.core.ports import PortRange, PortSet
    from tailbite.host.see.records import Namespace, Process
    from tailbite.kernel.sock_diag import TcpSocket
    from tailbite.kernel.tcp_info import TcpInfo

__all__ = ["PortLook", "Use", "is_own_address", "look_at", "may_bind_privileged"]

_CAP_NET_BIND_SERVICE = 10


@dataclass(frozen=True, slots=True)
class Use:
    """A socket whose local port is the one in question.

    Attributes:
        socket: what the kernel lists.
        traffic: what the kernel counted, for connections that are not in TIME-WAIT.
        owners: the processes that have it open, as far as they could be seen.
    """

    socket: TcpSocket
    traffic: TcpInfo | None = None
    owners: tuple[Process, ...] = ()


@dataclass(frozen=True, slots=True)
class PortLook:
    """One port in one network namespace.

    Attributes:
        namespace: which one.
        port: which port.
        uses: the sockets on it.
        listening: every port that somebody listens on in this namespace.
        ephemeral: ``ip_local_port_range``; None if unknown.
        reserved: ``ip_local_reserved_ports``; None if unknown.
        privileged_below: ``ip_unprivileged_port_start``.
        may_bind_privileged: True if this process has CAP_NET_BIND_SERVICE.
        sees_bound: True if this kernel lists sockets that are only bound (Linux 6.8).
        blind: what could not be looked at.
    """

    namespace: Namespace
    port: int
    uses: tuple[Use, ...]
    listening: frozenset[int]
    ephemeral: PortRange | None
    reserved: PortSet | None
    privileged_below: int
    may_bind_privileged: bool
    sees_bound: bool
    blind: tuple[Blind, ...] = ()

    def by(self, *states: TcpState) -> tuple[Use, ...]:
        """Return the uses in these states."""
        return tuple(use for use in self.uses if use.socket.state in states)


def look_at(port: int, namespaces: Iterable[Namespace]) -> tuple[PortLook, ...]:
    """Look at a port in each namespace. Never raises for what the kernel refuses: that becomes ``blind``."""
    looks = [_look(port, namespace) for namespace in namespaces]
    sockets = [use.socket for look in looks for use in look.uses]
    if not any(one.inode for one in sockets):
        return tuple(looks)
    from tailbite.host.see.processes import holders

    owners, unseen = holders(sockets)
    return tuple(
        replace(
            look,
            uses=tuple(replace(use, owners=owners.get(use.socket.inode, ())) for use in look.uses),
            blind=look.blind + (unseen if any(use.socket.inode for use in look.uses) else ()),
        )
        for look in looks
    )


def _look(port: int, namespace: Namespace) -> PortLook:
    try:
        return visit(namespace, partial(_look_here, port, namespace))
    except OSError as error:
        blind = Blind.of(str(namespace), error)
        return PortLook(namespace, port, (), frozenset(), None, None, 1024, False, False, (blind,))


def _look_here(port: int, namespace: Namespace) -> PortLook:
    look = Look()
    sockets = look.sockets(f"the sockets on port {port}", lambda diag: diag.listing(local_port=port))
    listeners = look.sockets("the listening sockets", lambda diag: diag.listing((TcpState.LISTEN,)))
    with contextlib.ExitStack() as stack:
        diag = stack.enter_context(SockDiag()) if sockets else None
        uses = tuple(Use(one, _traffic(diag, one)) for one in sockets)
    start = read_sysctl("ip_unprivileged_port_start")
    return PortLook(
        namespace=namespace,
        port=port,
        uses=uses,
        listening=frozenset(one.endpoints.local.port for one in listeners),
        ephemeral=look.at("the ephemeral port range", read_ephemeral_range),
        reserved=look.at("the reserved ports", read_reserved_ports),
        privileged_below=int(start) if start and start.isdigit() else 1024,
        may_bind_privileged=may_bind_privileged(),
        sees_bound=_sees_bound(),
        blind=tuple(look.blind),
    )


def _traffic(diag: SockDiag | None, one: TcpSocket) -> TcpInfo | None:
    if diag is None or not one.endpoints.remote.port:
        return None
    try:
        return diag.traffic(one)
    except OSError:
        return None  # a figure less; the socket itself is listed


def is_own_address(host: str) -> bool:
    """Tell whether an address belongs to this host, without touching any TCP port.

    Raises:
        OSError: the system did not say.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((host, 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False
            raise
        return True


def may_bind_privileged() -> bool:
    """Tell whether this process has CAP_NET_BIND_SERVICE (capabilities(7))."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as lines:  # noqa: PTH123
            effective = next(line.split()[1] for line in lines if line.startswith("CapEff:"))
        return bool(int(effective, 16) >> _CAP_NET_BIND_SERVICE & 1)
    except (OSError, StopIteration):
        return os.geteuid() == 0


def _sees_bound() -> bool:
    """Linux 6.8 lists sockets that are only bound; older kernels ignore the bit that asks for them."""
    parts = os.uname().release.split(".")
    numbers = [int("".join(filter(str.isdigit, part.partition("-")[0])) or 0) for part in parts[:2]]
    return numbers >= [6, 8]
