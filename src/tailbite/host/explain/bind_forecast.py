"""Forecast of a server's bind(2) and listen(2), worked out from the sockets that are there. Pure; nothing is bound.

The kernel refuses a bind with EADDRINUSE if another socket of the namespace holds the port on an address that
overlaps, whatever its state: bound, listening, connected, or TIME-WAIT (inet_csk_bind_conflict and
inet_rcv_saddr_equal, Linux net/ipv4/inet_connection_sock.c). With SO_REUSEADDR on *both* sockets it is let through,
unless the other one listens. The kernel does not list whether a socket has SO_REUSEADDR, so what another program's
socket would do to a server that sets it is :attr:`BindOutcome.DEPENDS`: servers set it, and what they accept inherits
it; clients do not, nearly always.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from tailbite.core.address import Endpoint
from tailbite.kernel.inet_diag import TcpState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tailbite.kernel.inet_diag import TcpSocket

__all__ = ["ANY_ADDRESS", "BindAddress", "BindForecast", "BindOutcome", "Overlap", "asked_addresses", "forecast_bind"]

_LOOPBACK_FOR_V6 = "127.0.0.6"  # the IPv4 address the kernel gives native IPv6 sockets (LOOPBACK4_IPV6)


class BindOutcome(Enum):
    """The result of a bind that a server would try now."""

    WORKS = "works"
    FAILS = "fails"
    """EADDRINUSE."""
    DEPENDS = "depends"
    """It works if the socket in the way has SO_REUSEADDR too, else EADDRINUSE."""
    UNCERTAIN = "uncertain"
    """It works if the IPv6 socket of a connection is IPV6_V6ONLY, which the kernel lists of listeners only."""
    NOT_KNOWN = "not-known"
    """No socket is listed, but this kernel (before Linux 6.8) does not list sockets that are only bound."""
    NOT_PERMITTED = "not-permitted"
    """EACCES: the port is privileged, and this user lacks CAP_NET_BIND_SERVICE."""
    NO_ADDRESS = "no-address"
    """EADDRNOTAVAIL: the address does not belong to this host, and the kernel looks at that before the port."""

    @property
    def label(self) -> str:
        """The word in JSON."""
        return self.value


class Overlap(Enum):
    """The overlap of two sockets' addresses."""

    NO = 0
    MAYBE = 1
    YES = 2


@dataclass(frozen=True, slots=True)
class BindAddress:
    """An address as a server binds it.

    Attributes:
        host: an IP address in canonical form; ``0.0.0.0`` for all of IPv4, ``::`` for all of IPv6.
        v6_only: IPV6_V6ONLY. Without it, ``::`` takes IPv4 as well ("dual-stack").
        interface: the index of the interface of a link-local address; 0 for other addresses.
    """

    host: str
    v6_only: bool = False
    interface: int = 0

    def end(self, port: int) -> Endpoint:
        """Return address and port."""
        return Endpoint(self.host, port, self.interface)

    def spell(self, port: int) -> str:
        """Write address and port as a person does."""
        return f"{self.end(port)}{' with IPV6_V6ONLY' if self.v6_only and self.host == '::' else ''}"


ANY_ADDRESS = (BindAddress("0.0.0.0"), BindAddress("::"), BindAddress("::", v6_only=True))
"""The addresses of a question without an address."""


@dataclass(frozen=True, slots=True)
class BindForecast:
    """The result for a server that binds an address and port now.

    Attributes:
        address: the address it would bind.
        plain: without SO_REUSEADDR.
        reuse_address: with SO_REUSEADDR.
        blockers: the sockets in its way, or if the outcome is uncertain those that may be.
    """

    address: BindAddress
    plain: BindOutcome
    reuse_address: BindOutcome
    blockers: tuple[TcpSocket, ...] = ()


def asked_addresses(host: str | None) -> tuple[BindAddress, ...]:
    """Return the addresses that a question is about: the one that was named, or all.

    Args:
        host: an IP address, a link-local one with the index of its interface as its zone (``fe80::1%3``); or None.
    """
    if host is None:
        return ANY_ADDRESS
    if host == "::":
        return ANY_ADDRESS[1:]
    plain, _, zone = host.partition("%")
    return (BindAddress(plain, ":" in plain, int(zone or 0)),)


def forecast_bind(
    address: BindAddress,
    sockets: Iterable[TcpSocket],
    *,
    permitted: bool = True,
    sees_bound: bool = True,
    has_address: bool = True,
) -> BindForecast:
    """Work out what a bind to this address and a port would meet.

    Args:
        address: the address.
        sockets: every socket whose local port is that port.
        permitted: False if this user may not bind the port.
        sees_bound: False if sockets that are only bound are not among ``sockets``.
        has_address: False if the address is not one that a server here may bind (__inet_bind, net/ipv4/af_inet.c).
    """
    met = [(overlap_of(address, one), one) for one in sockets]
    blockers = tuple(one for overlap, one in met if overlap is Overlap.YES)
    doubtful = tuple(one for overlap, one in met if overlap is Overlap.MAYBE)
    if not has_address:
        return BindForecast(address, BindOutcome.NO_ADDRESS, BindOutcome.NO_ADDRESS, blockers or doubtful)
    if not permitted:
        return BindForecast(address, BindOutcome.NOT_PERMITTED, BindOutcome.NOT_PERMITTED, blockers or doubtful)
    if blockers:
        listens = any(one.state is TcpState.LISTEN for one in blockers)
        return BindForecast(
            address, BindOutcome.FAILS, BindOutcome.FAILS if listens else BindOutcome.DEPENDS, blockers
        )
    if doubtful:
        return BindForecast(address, BindOutcome.UNCERTAIN, BindOutcome.UNCERTAIN, doubtful)
    free = BindOutcome.WORKS if sees_bound else BindOutcome.NOT_KNOWN
    return BindForecast(address, free, free)


def overlap_of(address: BindAddress, other: TcpSocket) -> Overlap:
    """Tell whether a socket bound to ``address`` and ``other`` would hold the same address."""
    if address.interface and other.interface and address.interface != other.interface:
        return Overlap.NO  # the two are bound to different devices (inet_csk_bind_conflict)
    certain = _holds_same(address, other)
    return Overlap.MAYBE if certain is None else Overlap.YES if certain else Overlap.NO


def _holds_same(address: BindAddress, other: TcpSocket) -> bool | None:
    host, theirs = address.host, other.endpoints.local.host
    if ":" not in theirs:
        if ":" in host:
            return host == "::" and not address.v6_only
        return host == theirs or "0.0.0.0" in (host, theirs)
    if ":" in host:
        return host == theirs or "::" in (host, theirs)
    # An IPv4 server beside a native IPv6 socket. One on :: has every IPv4 address too. A connection of one that was
    # not bound, or bound to :: (as was the listener that accepted it), has an IPv4 stand-in, which 0.0.0.0 meets, and
    # keeps it when the connection is gone. A bind to an IPv6 address makes a socket IPV6_V6ONLY, which has neither
    # (__inet6_bind, net/ipv6/af_inet6.c). Of connections the kernel does not list IPV6_V6ONLY.
    if other.v6_only or not (theirs == "::" or host in ("0.0.0.0", _LOOPBACK_FOR_V6)):
        return False
    # Kernels since 6.1 (bhash2) no longer compare a server on the stand-in itself with it.
    return None if other.v6_only is None or (host == _LOOPBACK_FOR_V6 and theirs != "::") else True
