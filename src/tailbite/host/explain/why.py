"""Explanation of a port: from what uses it to findings with codes, in words for a tired person. Pure.

======  ======================================================================================
TB101   a self-connected client holds the port
TB102   TIME-WAIT that a self-connect left
TB103   another connection has it as its source port
TB104   TIME-WAIT that another connection left
TB105   bound, but not listening
TB106   a server listens
TB107   a server listens, but not on the address that was asked for
TB108   in use in another network namespace
TB109   free; a client that retries can take it
TB110   free, and no client is ever given it
TB111   connections of a server that no longer listens
TB112   the address does not belong to this host
TB113   this user may not bind it
TB114   a socket listens that no process has open
TB115   a server listens but does not accept
TB116   in use in another protocol
TB117   a rule answers for it before any socket
TB211   the source ports to one destination are used up (:mod:`tailbite.host.explain.exhaustion`)
======  ======================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.host.explain.bind_forecast import Overlap
from tailbite.host.explain.elsewhere import other_namespace_finding, other_protocol_findings, redirect_findings
from tailbite.host.explain.evaluation import Evaluation, Kind
from tailbite.host.explain.finding import Fact, Finding, Severity
from tailbite.host.explain.free import foreign_address_finding, free_findings
from tailbite.host.explain.held import held_finding
from tailbite.host.explain.listening import listening_finding
from tailbite.host.see.abilities import SocketAbilities
from tailbite.host.see.own_address import HostAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tailbite.host.explain.bind_forecast import BindForecast
    from tailbite.host.explain.evaluation import Group
    from tailbite.host.see.port import PortSnapshot, PortUse
    from tailbite.host.see.port_selection import SelectionEvidence

__all__ = ["Explanation", "explain_foreign_address", "explain_port", "has_address"]

_OWN = HostAddress(is_own=True, may_bind=True)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer about a port.

    Attributes:
        findings: about the namespace that was asked about, the most important first.
        elsewhere: about other network namespaces.
        forecasts: what a server would meet that binds the addresses that were asked for.
        settings: the settings that decide about the port, as facts.
    """

    findings: tuple[Finding, ...]
    elsewhere: tuple[Finding, ...] = ()
    forecasts: tuple[BindForecast, ...] = ()
    settings: tuple[Fact, ...] = ()

    @property
    def is_bad(self) -> bool:
        """True if something is in the way, or at risk."""
        return any(one.severity.is_bad for one in (*self.findings, *self.elsewhere))


def explain_port(
    shot: PortSnapshot,
    others: Iterable[PortSnapshot] = (),
    host: str | None = None,
    *,
    address: HostAddress = _OWN,
    abilities: SocketAbilities | None = None,
    selection: Callable[[], SelectionEvidence] | None = None,
    guarded: Callable[[], frozenset[int]] = frozenset,
    more: Iterable[Finding] = (),
) -> Explanation:
    """Explain what uses a port, and what a server that binds it would meet.

    Args:
        shot: the port in the namespace that was asked about.
        others: the port in other namespaces, as far as they could be inspected.
        host: the address that was asked for; None for any.
        address: the address that was asked for, as the namespace treats it.
        abilities: what this kernel can do about a socket; None for everything.
        selection: asked only where it matters, how the kernel chooses source ports; None for strides.
        guarded: asked only where it matters, the IP versions whose self-connects the host guard refuses.
        more: findings of others about the same port.
    """
    reaches_itself = host is None or address.reaches_itself(host)
    found = Evaluation(shot, host, abilities or SocketAbilities(), reaches_itself, host is None or address.may_bind)
    answer = [*_answer(found, selection, guarded), *more]
    if host is not None and not address.is_own:
        answer.append(foreign_address_finding(shot, host, address))
    context = [
        *(held_finding(found, group) for group in found.groups if _is_context(group)),
        *other_protocol_findings(shot),
        *redirect_findings(shot, host),
    ]
    findings = [one for part in (answer, context) for one in sorted(part, key=_rank)]
    elsewhere = tuple(one for other in others if (one := other_namespace_finding(other)) is not None)
    forecasts = found.forecasts if findings else ()
    return Explanation(tuple(findings), elsewhere, forecasts, tuple(_settings(found)))


def explain_foreign_address(shot: PortSnapshot, host: str, address: HostAddress) -> Explanation:
    """Explain a port of an address that does not belong to this host."""
    return Explanation((foreign_address_finding(shot, host, address),))


def has_address(use: PortUse, host: str) -> bool:
    """Tell whether a socket has exactly this address as its local one."""
    return use.socket.endpoints.local.host == host.partition("%")[0]


def _answer(
    found: Evaluation, selection: Callable[[], SelectionEvidence] | None, guarded: Callable[[], frozenset[int]]
) -> Iterator[Finding]:
    """Yield the findings that answer the question: what is in the way, who serves, or that the port is free."""
    listeners = [group for group in found.groups if group.kind is Kind.LISTENER]
    if listeners:
        yield listening_finding(found, listeners)
    for group in found.groups:
        if group.kind is not Kind.LISTENER and not _is_context(group):
            yield held_finding(found, group)
    if found.is_free and not listeners:
        evidence = selection() if selection and found.can_be_chosen else None
        yield from free_findings(found, evidence, guarded)


def _is_context(group: Group) -> bool:
    """Tell whether sockets are not in the way; these are reported after the answer."""
    return group.overlap is Overlap.NO and group.kind is not Kind.LISTENER


def _rank(finding: Finding) -> int:
    return list(Severity).index(finding.severity)


def _settings(found: Evaluation) -> Iterator[Fact]:
    shot = found.shot
    if shot.port < shot.privileged_below:
        yield Fact("privileged", True, text=f"yes: ports below {shot.privileged_below} need CAP_NET_BIND_SERVICE")
    if shot.ephemeral is None:
        yield Fact("ephemeral range", None)
        return
    inside = shot.port in shot.ephemeral
    yield Fact("ephemeral range", str(shot.ephemeral), text=f"{shot.ephemeral}: {'inside' if inside else 'outside'}")
    if shot.reserved is not None:
        yield Fact("reserved", shot.port in shot.reserved)
