"""Findings about the same number elsewhere: other namespaces, protocols, and rules in front of sockets. Pure."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from tailbite.core.address import Endpoint
from tailbite.core.ports import PortSet
from tailbite.host.explain.finding import Confidence, Fact, Finding, Remedy, Severity
from tailbite.host.explain.phrases import first_words, holder_name, process_names
from tailbite.host.see.firewall_rules import RuleEffect
from tailbite.kernel.inet_diag import TcpState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.host.see.firewall_rules import Rule
    from tailbite.host.see.other_protocols import OtherUse
    from tailbite.host.see.port import PortSnapshot, PortUse

__all__ = ["other_namespace_finding", "other_protocol_findings", "redirect_findings"]

_SHOWN = 5
_EFFECTS = (
    (
        RuleEffect.ELSEWHERE,
        "A rule of this host answers for port {port} before any socket: {count} with NAT or a virtual server.",
        (
            "Published container ports and node ports work like this. A client can be answered although no socket "
            "has the port, and a server that binds the port may not be reached. No rule keeps a server from "
            "binding it."
        ),
    ),
    (
        RuleEffect.DROPPED,
        "A rule of this host drops packets to port {port}, or refuses them: {count} of the packet filter.",
        (
            "A client that such a rule is for gets no answer, or is refused (Connection refused), whatever server "
            "listens. No rule keeps a server from binding the port."
        ),
    ),
)


def other_namespace_finding(shot: PortSnapshot) -> Finding | None:
    """Return the finding about another network namespace; None if nothing uses the port there."""
    if not shot.uses:
        return None
    use = next((one for one in shot.uses if one.socket.is_self_connected), shot.uses[0])
    stuck = use.socket.is_self_connected
    who = holder_name([use], sees_processes=shot.sees_processes)
    what = "is connected to itself on" if stuck else f"has {_state_words(use)}"
    return Finding(
        "TB108",
        Severity.WARNING if stuck else Severity.NOTICE,
        Confidence.CERTAIN,
        f"In another network namespace, {shot.namespace}, {who} {what} {use.socket.endpoints.local}.",
        "Network namespaces do not share ports: nothing there keeps a server here from binding, and a client here "
        "does not reach it at 127.0.0.1.",
        (
            Remedy(
                "see what holds it there",
                (f"tailbite why {shot.port} --netns {shot.namespace.argument}",),
                needs_root=True,
            ),
        ),
        shot.namespace,
        use.socket.endpoints.local,
        use.owners,
        tuple(
            Fact(one.socket.state.label, str(one.socket.endpoints))
            for one in shot.uses[:_SHOWN]
            if one.socket.endpoints.remote.port
        ),
        PortSet.of([shot.port]),
    )


def _state_words(use: PortUse) -> str:
    return {TcpState.LISTEN: "a server that listens on", TcpState.BOUND_INACTIVE: "bound"}.get(
        use.socket.state, f"a connection ({use.socket.state.label}) from"
    )


def other_protocol_findings(shot: PortSnapshot) -> Iterator[Finding]:
    """Yield a finding for each other protocol in which the number is in use."""
    for protocol in dict.fromkeys(one.protocol for one in shot.others):
        uses = [one for one in shot.others if one.protocol == protocol]
        owners = tuple(dict.fromkeys(owner for one in uses for owner in one.owners))
        yield Finding(
            "TB116",
            Severity.NOTICE,
            Confidence.CERTAIN,
            f"{protocol} port {shot.port} is in use by {_other_holder(uses)}, on "
            f"{first_words((str(Endpoint(one.host, shot.port)) for one in uses), 'addresses')}.",
            f"{protocol} ports and TCP ports are separate: this does not keep a TCP server from binding the port.",
            (),
            shot.namespace,
            Endpoint(uses[0].host, shot.port),
            owners,
            ports=PortSet.of([shot.port]),
        )


def _other_holder(uses: list[OtherUse]) -> str:
    owners = [owner for one in uses for owner in one.owners]
    return process_names(owners) if owners else f"a process that is not visible (uid {uses[0].uid})"


def redirect_findings(shot: PortSnapshot, host: str | None = None) -> Iterator[Finding]:
    """Yield the findings about rules that the port's packets meet before a socket sees them.

    Args:
        shot: the port.
        host: the address that was asked for; None for any.
    """
    rules = [rule for rule in shot.redirects.rules if _is_for(rule, host)]
    for effect, what, why in _EFFECTS:
        if some := [rule for rule in rules if rule.effect is effect]:
            yield Finding(
                "TB117",
                Severity.NOTICE,
                Confidence.LIKELY,
                what.format(port=shot.port, count=f"{len(some)} rule{'' if len(some) == 1 else 's'}"),
                why,
                (),
                shot.namespace,
                Endpoint(host or "0.0.0.0", shot.port),
                facts=tuple(Fact("rule", rule.text) for rule in some[:_SHOWN]),
                ports=PortSet.of([shot.port]),
            )


def _is_for(rule: Rule, host: str | None) -> bool:
    """Tell whether a rule can be about the address that was asked for."""
    if host is None or not rule.destination:
        return True
    asked = ip_address(host.partition("%")[0])
    return asked.is_unspecified or asked in ip_network(rule.destination, strict=False)
