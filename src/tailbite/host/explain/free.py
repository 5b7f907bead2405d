"""Findings for a port that nothing listed holds, and for addresses and users that cannot bind it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailbite.core.address import Endpoint
from tailbite.core.odds import odds
from tailbite.core.ports import PortSet
from tailbite.core.selection import Selection
from tailbite.host.explain.finding import Confidence, Fact, Finding, Remedy, Severity
from tailbite.host.explain.phrases import client_at_risk, holder_name, range_words, spell_forecasts, verb_for
from tailbite.host.explain.remedies import reserve_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tailbite.core.odds import Odds
    from tailbite.host.explain.evaluation import Evaluation
    from tailbite.host.see.own_address import HostAddress
    from tailbite.host.see.port import PortSnapshot
    from tailbite.host.see.port_selection import SelectionEvidence

__all__ = ["HOST_GUARD", "foreign_address_finding", "free_findings"]

HOST_GUARD = (
    " The host guard refuses a client that dials its own port, so no client connects to itself. A client that dials "
    "another port can be given this one as its source port."
)


def free_findings(
    found: Evaluation, evidence: SelectionEvidence | None = None, guarded: Callable[[], frozenset[int]] = frozenset
) -> Iterator[Finding]:
    """Yield the findings for a port whose addresses nothing listed holds.

    Args:
        found: the evaluation.
        evidence: how the kernel chooses source ports; None for strides.
        guarded: asked only where it matters, the IP versions whose self-connects the host guard refuses.
    """
    shot = found.shot
    if shot.not_visible and shot.ephemeral is None:
        return  # the namespace could not be inspected
    sure = Confidence.CERTAIN if shot.sees_bound else Confidence.LIKELY
    end = found.addresses[0].end(shot.port)
    ports = PortSet.of([shot.port])
    unused = _unused(found)
    if not found.may_bind:
        yield Finding(
            "TB113",
            Severity.WARNING,
            sure,
            f"{unused}, but this user may not bind it: Permission denied (EACCES).",
            f"Ports below {shot.privileged_below} are privileged (sysctl ip_unprivileged_port_start).",
            (
                Remedy(
                    "start the server as root, or give it the capability",
                    ("setcap cap_net_bind_service=+ep FILE",),
                    True,
                ),
            ),
            shot.namespace,
            end,
            ports=ports,
        )
    taken = found.can_be_chosen and found.reaches_itself
    chances = _chances(found, evidence) if taken else {}
    is_at_risk = found.shot.opens_simultaneously and any(one.is_possible for one in chances.values())
    is_guarded = is_at_risk and found.versions <= guarded()
    risk = HOST_GUARD if is_guarded else _risk(found, chances)
    can_connect = found.shot.opens_simultaneously and not is_guarded
    yield Finding(
        "TB109" if taken else "TB110",
        Severity.FINE if not chances else Severity.WARNING if is_at_risk and not is_guarded else Severity.NOTICE,
        sure,
        f"{unused}. {spell_forecasts(found.forecasts, shot.port)}{risk}",
        f"The kernel chooses source ports from the ephemeral range, and {range_words(shot)}.",
        reserve_port(found) if taken else (),
        shot.namespace,
        end,
        facts=(*_odds_facts(chances if can_connect else {}, evidence), *_not_inspected(shot)),
        ports=ports,
    )


def _unused(found: Evaluation) -> str:
    where = f"port {found.port}" if not found.shot.uses else f"{found.addresses[0].end(found.port)}"
    return f"No TCP socket {'uses' if found.shot.sees_bound else 'that this kernel lists uses'} {where}"


def _chances(found: Evaluation, evidence: SelectionEvidence | None) -> dict[str, Odds]:
    """Return the odds of both kinds of client, by the name of the fact; nothing if the range is not known."""
    shot = found.shot
    if shot.ephemeral is None:
        return {}
    taken = (shot.reserved or PortSet()) | PortSet.of(shot.listening - {shot.port})
    selection = evidence.selection if evidence is not None else Selection.STRIDES
    return {
        name: odds(
            shot.port,
            shot.ephemeral,
            taken,
            binds_first=first,
            selection=selection,
            scatters=shot.has_random_steps,
        )
        for name, first in (("odds", False), ("odds if it binds first", True))
    }


def _risk(found: Evaluation, chances: dict[str, Odds]) -> str:
    """Say who can be connected to itself while no server is up, by the odds that are listed below the sentence."""
    if found.can_be_chosen and not found.reaches_itself:
        return (
            f" A client that dials {found.host} has another source address, so it cannot be connected to itself, "
            "unless it binds that address first."
        )
    if not chances:
        return ""
    if not found.shot.opens_simultaneously:
        return " Simultaneous open is switched off here (tcp_simult_connect is 0), so no client connects to itself."
    client = client_at_risk(*(one.is_possible for one in chances.values()))
    if client is None:
        return " While other source ports are free, the kernel gives no client this one."
    return f" While no server is up, {client} can be connected to itself on this port, and hold it."


def _odds_facts(chances: dict[str, Odds], evidence: SelectionEvidence | None) -> Iterator[Fact]:
    for name, seen in chances.items():
        mean = round(seen.seconds(every=1.0), 3) if seen.is_possible else None
        yield Fact(name, mean, "s", seen.sentence(every=1.0))
    if chances and evidence is not None and not evidence.is_measured:
        yield Fact("source ports", evidence.selection.label, text=evidence.sentence())


def _not_inspected(shot: PortSnapshot) -> Iterator[Fact]:
    for item in shot.redirects.not_inspected:
        yield Fact("not inspected", item)


def foreign_address_finding(shot: PortSnapshot, host: str, address: HostAddress) -> Finding:
    """Return the finding for an address that does not belong to this host."""
    uses = [use for use in shot.uses if use.socket.endpoints.local.host == host]
    if uses:
        who = holder_name(uses, sees_processes=shot.sees_processes)
        what = (
            f"{host} is not an address of this host, although {who} "
            f"{verb_for(uses, 'has', 'have')} a socket on it: the address "
            "was removed since, or the socket was bound with IP_FREEBIND."
        )
    else:
        what = (
            f"{host} is not an address of this host, so what holds port {shot.port} there cannot be seen from here."
        )
    bind = (
        "A server here may bind it all the same, because ip_nonlocal_bind is set."
        if address.may_bind
        else "A server here needs IP_FREEBIND to bind it, or gets EADDRNOTAVAIL."
    )
    return Finding(
        "TB112",
        Severity.NOTICE,
        Confidence.CERTAIN,
        what,
        f"A connection to another host cannot be to itself. {bind}",
        (Remedy("ask on the host that has it", (f"tailbite why {Endpoint(host, shot.port)}",)),),
        shot.namespace,
        Endpoint(host, shot.port),
        ports=PortSet.of([shot.port]),
    )
