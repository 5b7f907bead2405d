"""Would a server's bind(2) work? Worked out from the sockets that are there, without binding anything. Pure.

The kernel refuses a bind with EADDRINUSE if another socket of the namespace holds the port on an address that
overlaps, whatever its state: bound, listening, connected, or TIME-WAIT (inet_csk_bind_conflict and
inet_rcv_saddr_equal, Linux net/ipv4/inet_connection_sock.c). With SO_REUSEADDR on *both* sockets it is let through,
unless the other one listens. The kernel tells nobody whether a socket has SO_REUSEADDR, so what another program's
socket would do to a server that sets it is said with "unless": servers set it, and what they accept inherits it;
clients do not, nearly always.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from tailbite.kernel.inet_diag import TcpState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tailbite.kernel.inet_diag import TcpSocket

__all__ = ["Answer", "Forecast", "forecast", "overlaps"]

_LOOPBACK_FOR_V6 = "127.0.0.6"  # the IPv4 address the kernel gives native IPv6 sockets (LOOPBACK4_IPV6)


class Answer(Enum):
    """Whether a bind would work."""

    YES = "yes"
    NO = "no"
    UNLESS = "not unless the other socket has SO_REUSEADDR too"
    MAYBE = "not if the IPv6 socket was connected without a bind"

    @property
    def label(self) -> str:
        """The word in JSON."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a server that binds an address and port would meet now.

    Attributes:
        host: the address it would bind.
        plain: without SO_REUSEADDR.
        reusing: with SO_REUSEADDR.
        blockers: the sockets in its way.
    """

    host: str
    plain: Answer
    reusing: Answer
    blockers: tuple[TcpSocket, ...]


def forecast(host: str, sockets: Iterable[TcpSocket]) -> Forecast:
    """Work out what a bind to this host and a port would meet.

    Args:
        host: an address; ``0.0.0.0`` for all IPv4, ``::`` for all of both families.
        sockets: every socket whose local port is that port.
    """
    met = [(overlaps(host, one), one) for one in sockets]
    blockers = tuple(one for certain, one in met if certain)
    if not blockers and (doubtful := tuple(one for certain, one in met if certain is None)):
        return Forecast(host, Answer.MAYBE, Answer.MAYBE, doubtful)
    if not blockers:
        return Forecast(host, Answer.YES, Answer.YES, ())
    listens = any(one.state is TcpState.LISTEN for one in blockers)
    return Forecast(host, Answer.NO, Answer.NO if listens else Answer.UNLESS, blockers)


def overlaps(host: str, other: TcpSocket) -> bool | None:
    """Tell whether a socket bound to ``host`` and ``other`` would hold the same address; None if that cannot be told.

    ``host`` ``::`` is a dual-stack server's, without IPV6_V6ONLY.
    """
    theirs = other.endpoints.local.host
    if ":" not in theirs:
        return host in (theirs, "::") or (":" not in host and "0.0.0.0" in (host, theirs))
    if ":" in host:
        return host == theirs or "::" in (host, theirs)
    # An IPv4 server beside a native IPv6 socket. One that is bound to :: has every IPv4 address too, unless it is
    # IPV6_V6ONLY.
    if other.v6_only is not None:
        return theirs == "::" and not other.v6_only
    # One that was connected to ::1 without a bind holds an IPv4 stand-in as well, which 0.0.0.0 meets; a bind to an
    # address makes a socket IPV6_V6ONLY. Of connected sockets the kernel does not list which it is.
    return None if host in ("0.0.0.0", _LOOPBACK_FOR_V6) else False
