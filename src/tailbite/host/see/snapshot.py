"""One network namespace at one moment: its sockets that matter, and the settings that decide about source ports."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tailbite.host.see.inspect import Inspection
from tailbite.host.see.records import NotVisible
from tailbite.host.see.usage import are_listeners_all, usage_here
from tailbite.host.see.visit import call_in_namespace
from tailbite.kernel.sock_diag import TcpState
from tailbite.kernel.sysctl import read_ephemeral_range, read_reserved_ports, read_sysctl

if TYPE_CHECKING:
    from tailbite.core.ports import PortRange, PortSet
    from tailbite.host.see.records import Namespace
    from tailbite.kernel.sock_diag import TcpSocket
    from tailbite.kernel.tcp_info import TcpInfo

__all__ = ["SYSCTLS", "Snapshot", "Sysctl", "take_snapshot"]

SYSCTLS = (
    "ip_unprivileged_port_start",
    "ip_local_port_step_width",
    "tcp_fin_timeout",
    "tcp_simult_connect",
    "tcp_tw_reuse",
    "tcp_tw_reuse_delay",
)
"""Names below /proc/sys/net/ipv4 that bear on self-connects; most kernels lack some of them."""


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A setting below /proc/sys/net/ipv4; ``value`` is None where this kernel does not have it."""

    name: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One network namespace at one moment.

    Attributes:
        namespace: which one.
        taken: when, in seconds since the epoch.
        ephemeral: ``ip_local_port_range``; None if it could not be read.
        reserved: ``ip_local_reserved_ports``; None if it could not be read.
        sysctls: those of :data:`SYSCTLS`.
        self_connects: every self-connected socket, TIME-WAIT included.
        listeners: every listening socket.
        bound: sockets that are bound, neither listening nor connected (visible since Linux 6.8).
        not_visible: what could not be inspected.
        traffic: the counters of each of the self-connects; None for one in TIME-WAIT.
    """

    namespace: Namespace
    taken: float
    ephemeral: PortRange | None
    reserved: PortSet | None
    sysctls: tuple[Sysctl, ...]
    self_connects: tuple[TcpSocket, ...]
    listeners: tuple[TcpSocket, ...]
    bound: tuple[TcpSocket, ...]
    not_visible: tuple[NotVisible, ...] = ()
    traffic: tuple[TcpInfo | None, ...] = ()

    @property
    def held(self) -> tuple[TcpSocket, ...]:
        """The self-connected sockets that are not in TIME-WAIT: a program has them open, or the close still runs."""
        return tuple(found for found in self.self_connects if found.state is not TcpState.TIME_WAIT)

    @property
    def time_waits(self) -> tuple[TcpSocket, ...]:
        """TIME-WAIT sockets from a port to itself, which closed self-connects left."""
        return tuple(found for found in self.self_connects if found.state is TcpState.TIME_WAIT)

    def sysctl(self, name: str) -> str | None:
        """Return one setting's text, or None if this kernel does not have it."""
        return next((item.value for item in self.sysctls if item.name == name), None)


def take_snapshot(namespace: Namespace) -> Snapshot:
    """Inspect one namespace. Never raises for what the kernel refuses: that becomes ``not_visible``."""
    try:
        return call_in_namespace(namespace, partial(_take_here, namespace))
    except OSError as error:
        not_visible = NotVisible.of(str(namespace), error)
        return Snapshot(namespace, time.time(), None, None, (), (), (), (), (not_visible,))


def _take_here(namespace: Namespace) -> Snapshot:
    inspection = Inspection()
    ephemeral = inspection.read("the ephemeral port range", read_ephemeral_range)
    usage = usage_here()
    # Listening and bound sockets are in tables of their own: one dump of both does not walk that of the connections.
    states = [TcpState.LISTEN] if usage is None or usage.in_use else []
    states += [TcpState.BOUND_INACTIVE] if usage is None or usage.sockets else []
    others: tuple[TcpSocket, ...] = ()
    if states:
        others = inspection.list_sockets("the listening and bound sockets", lambda diag: diag.listing(states))
    listening = tuple(one for one in others if one.state is TcpState.LISTEN)
    connected: tuple[TcpSocket, ...] = ()
    if not are_listeners_all(len(listening), usage, usage_here()):
        connected = inspection.list_sockets("the self-connected sockets", lambda diag: diag.self_connects(ephemeral))
    return Snapshot(
        namespace=namespace,
        taken=time.time(),
        ephemeral=ephemeral,
        reserved=inspection.read("the reserved ports", read_reserved_ports),
        sysctls=tuple(Sysctl(name, read_sysctl(name)) for name in SYSCTLS),
        self_connects=connected,
        listeners=listening,
        bound=tuple(one for one in others if one.state is TcpState.BOUND_INACTIVE),
        traffic=inspection.read_traffic(connected),
        not_visible=tuple(inspection.not_visible),
    )
