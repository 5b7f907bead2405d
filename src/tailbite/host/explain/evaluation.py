"""One evaluation of the question that was asked about a port; verdict, sentences and remedies all come from it. Pure.

The question is: *what would a server meet that binds this port on this address now, and what holds the port?* Each
socket on the port is put into a group by what it is (:class:`Kind`) and by whether it is in the way of the addresses
that were asked for. What is in the way is the kernel's rule (:mod:`tailbite.host.explain.bind_forecast`) and nothing
else, so that no sentence can deny a forecast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from tailbite.host.explain.bind_forecast import BindOutcome, Overlap, asked_addresses, forecast_bind, overlap_of
from tailbite.host.explain.finding import Confidence
from tailbite.kernel.inet_diag import CONNECTION_STATES, TcpState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tailbite.host.explain.bind_forecast import BindAddress, BindForecast
    from tailbite.host.see.abilities import SocketAbilities
    from tailbite.host.see.port import PortSnapshot, PortUse

__all__ = ["Evaluation", "Group", "Kind", "Role"]

_LIVE = CONNECTION_STATES - {TcpState.TIME_WAIT}
_WAITS_TOO_LONG_MS = 1000
_FEW = 4


class Kind(Enum):
    """The kind of a socket on the port."""

    SELF_CONNECT = "connected to itself"
    SELF_TIME_WAIT = "TIME-WAIT that a self-connect left"
    LISTENER = "listens"
    BOUND = "bound only"
    CONNECTION = "a connection, with the port as its local port"
    TIME_WAIT = "TIME-WAIT of another connection"


class Role(Enum):
    """The end of a connection. The kernel's list does not say who dialled; its counters do for most connections."""

    CLIENT = "client"
    """The port is its source port."""
    SERVER = "server"
    """It was accepted by a server on the port."""


@dataclass(frozen=True)
class Group:
    """Sockets of one kind, all or none of them in the way.

    Attributes:
        kind: what they are.
        role: the end of the connection, for connections and what they left.
        confidence: how sure the role is.
        overlap: whether they are in the way of an address that was asked for.
        uses: the sockets.
    """

    kind: Kind
    role: Role | None
    confidence: Confidence
    overlap: Overlap
    uses: tuple[PortUse, ...]


@dataclass(frozen=True)
class Evaluation:
    """The answer to the question, before it is put into words.

    Attributes:
        shot: the port in the namespace that was asked about.
        host: the address that was asked for; None for any.
        abilities: what this kernel can do about a socket.
        reaches_itself: False if a client that dials the address has another one as its source, as with 127.0.0.2.
        has_address: False if the address that was asked for is not one that a server here may bind.
    """

    shot: PortSnapshot
    host: str | None
    abilities: SocketAbilities
    reaches_itself: bool = True
    has_address: bool = True

    @property
    def port(self) -> int:
        """The port that was asked about."""
        return self.shot.port

    @cached_property
    def addresses(self) -> tuple[BindAddress, ...]:
        """The addresses that were asked for."""
        return asked_addresses(self.host)

    @property
    def versions(self) -> frozenset[int]:
        """The IP versions, 4 and 6, of the addresses that were asked for."""
        return frozenset(
            version
            for one in self.addresses
            for version in ((4,) if ":" not in one.host else (6,) if one.v6_only or one.host != "::" else (4, 6))
        )

    @cached_property
    def may_bind(self) -> bool:
        """True if this user may bind the port at all."""
        return self.shot.port >= self.shot.privileged_below or self.shot.may_bind_privileged

    @cached_property
    def forecasts(self) -> tuple[BindForecast, ...]:
        """The forecast for each address; a row that only repeats another with IPV6_V6ONLY is left out."""
        sockets = [use.socket for use in self.shot.uses]
        found = [
            forecast_bind(
                address,
                sockets,
                permitted=self.may_bind,
                sees_bound=self.shot.sees_bound,
                has_address=self.has_address,
            )
            for address in self.addresses
        ]
        if len(found) > 1 and replace(found[-1], address=found[-2].address, blockers=()) == replace(
            found[-2], blockers=()
        ):
            found.pop()
        return tuple(found)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The holders of the port, the worst kind first."""
        listeners = [use for use in self.shot.uses if use.socket.state is TcpState.LISTEN]
        stuck = sum(_kind(use) is Kind.SELF_CONNECT for use in self.shot.uses)
        sorted_in: dict[tuple[Kind, Role | None, Confidence, Overlap, int], list[PortUse]] = {}
        for use in self.shot.uses:
            if (kind := _kind(use)) is None or _belongs_to_listener(use, kind, listeners):
                continue
            role, sure = self._role(use) if kind in (Kind.CONNECTION, Kind.TIME_WAIT) else (None, Confidence.CERTAIN)
            # A few self-connects are reported separately: each on its address.
            alone = use.socket.cookie[0] if kind is Kind.SELF_CONNECT and stuck <= _FEW else 0
            sorted_in.setdefault((kind, role, sure, self.overlap(use), alone), []).append(use)
        order = list(Kind)
        return tuple(
            Group(kind, role, sure, overlap, tuple(uses))
            for (kind, role, sure, overlap, _), uses in sorted(
                sorted_in.items(), key=lambda item: (-item[0][3].value, order.index(item[0][0]))
            )
        )

    @cached_property
    def is_free(self) -> bool:
        """True if nothing that is listed is in the way of any address that was asked for."""
        return all(self.overlap(use) is Overlap.NO for use in self.shot.uses)

    def overlap(self, use: PortUse) -> Overlap:
        """Tell whether a socket is in the way of an address that was asked for."""
        return max((overlap_of(address, use.socket) for address in self.addresses), key=lambda one: one.value)

    @cached_property
    def can_be_chosen(self) -> bool:
        """True if the kernel may choose the port as a source port: in the range, not reserved, bound by nobody.

        connect(2) skips every port with a bind(2) bucket of a program, whatever its address (__inet_hash_connect,
        net/ipv4/inet_hashtables.c); ports that it chose itself for other connections it uses again.
        """
        return self.is_exposed and not self.shot.in_states(TcpState.LISTEN, TcpState.BOUND_INACTIVE)

    @cached_property
    def is_exposed(self) -> bool:
        """True if the settings let the kernel choose the port as a source port, while nobody binds it."""
        shot = self.shot
        return shot.ephemeral is not None and shot.port in shot.ephemeral and shot.port not in (shot.reserved or ())

    @cached_property
    def is_reserved_only_now(self) -> bool:
        """True if the port is reserved: the kernel does not choose it, and may have chosen it before that."""
        shot = self.shot
        return not self.is_exposed and shot.ephemeral is not None and shot.port in shot.ephemeral

    @property
    def can_have_been_chosen(self) -> bool:
        """True if the kernel may have chosen the port for a socket that has it: ending the socket frees the port."""
        return self.is_exposed or self.is_reserved_only_now

    @cached_property
    def waiting(self) -> tuple[PortUse, ...]:
        """Connections that wait longer than a second for a server here to accept them (accept(2))."""
        return tuple(
            use
            for use in self.shot.in_states(TcpState.ESTABLISHED, TcpState.CLOSE_WAIT)
            if not use.socket.inode and use.traffic is not None and use.traffic.idle_ms >= _WAITS_TOO_LONG_MS
        )

    def outcome_of(self, outcomes: Iterable[BindOutcome]) -> tuple[BindForecast, ...]:
        """Return the forecasts whose outcome without SO_REUSEADDR is one of these."""
        wanted = set(outcomes)
        return tuple(one for one in self.forecasts if one.plain in wanted)

    def _role(self, use: PortUse) -> tuple[Role, Confidence]:
        """Tell which end a connection is, and how sure that is."""
        state, remote, ephemeral = use.socket.state, use.socket.endpoints.remote.port, self.shot.ephemeral
        if state in (TcpState.SYN_SENT, TcpState.SYN_RECV):
            return Role.CLIENT if state is TcpState.SYN_SENT else Role.SERVER, Confidence.CERTAIN
        if use.traffic is not None and use.traffic.has_dialled is not None:
            return Role.CLIENT if use.traffic.has_dialled else Role.SERVER, Confidence.CERTAIN
        if remote in self.shot.listening:  # the server there was dialled, if it is that of this host
            ends = use.socket.endpoints
            return Role.CLIENT, Confidence.CERTAIN if ends.local.host == ends.remote.host else Confidence.LIKELY
        if ephemeral is None:
            return Role.SERVER, Confidence.POSSIBLE
        if self.port not in ephemeral and remote in ephemeral:
            return Role.SERVER, Confidence.LIKELY
        # Both ports in the range, or both outside: nothing speaks for one end rather than the other.
        return Role.CLIENT, Confidence.LIKELY if remote not in ephemeral else Confidence.POSSIBLE


def _kind(use: PortUse) -> Kind | None:
    state = use.socket.state
    if use.socket.is_self_connected:
        return Kind.SELF_TIME_WAIT if state is TcpState.TIME_WAIT else Kind.SELF_CONNECT
    if state in (TcpState.BOUND_INACTIVE, TcpState.CLOSE):
        return Kind.BOUND
    if state is TcpState.LISTEN:
        return Kind.LISTENER
    if state is TcpState.TIME_WAIT:
        return Kind.TIME_WAIT
    return Kind.CONNECTION if state in _LIVE else None


def _belongs_to_listener(use: PortUse, kind: Kind, listeners: Iterable[PortUse]) -> bool:
    """Tell whether a connection is one of a server that listens on its address: that is as it should be."""
    if kind not in (Kind.CONNECTION, Kind.TIME_WAIT):
        return False
    here = use.socket.endpoints.local.host
    for listener in listeners:
        theirs = listener.socket.endpoints.local.host
        if theirs == here or (theirs == "0.0.0.0" and ":" not in here):
            return True
        if theirs == "::" and (":" in here or not listener.socket.v6_only):
            return True
    return False
