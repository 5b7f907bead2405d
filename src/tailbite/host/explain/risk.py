"""Risks of a namespace: servers and services whose ports the kernel may choose as source ports. Pure.

Ports in the same state are one finding, however many they are: the cost and the length of a report grow with the
number of states, not with the number of ports.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from tailbite.core.address import Endpoint
from tailbite.core.odds import Odds, odds
from tailbite.core.ports import PortRange, PortSet, shortened
from tailbite.host.explain.finding import Confidence, Fact, Finding, Remedy, Severity
from tailbite.host.explain.phrases import client_at_risk, join_words
from tailbite.host.explain.subject import exposed_ports, fix_command, guard_remedy, prevention_remedy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tailbite.core.selection import Selection
    from tailbite.host.explain.subject import Service, Subject
    from tailbite.host.see.records import Process
    from tailbite.kernel.sock_diag import TcpSocket

__all__ = ["LINUX_DEFAULT", "ports_at_risk", "risks"]

LINUX_DEFAULT = PortRange(32768, 60999)
_MOST_NAMED = 10  # services that get a finding of their own; the others are reported together
_MOST_ROWS = 20  # processes listed in a finding about many listeners
_RETRY = 1.0  # seconds between attempts for which the odds are reported


def risks(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each state that puts ports at risk."""
    yield from _services_down(subject)
    yield from _listeners(subject)
    yield from _unexpected(subject)
    yield from _range(subject)


def ports_at_risk(subject: Subject) -> PortSet:
    """Return the ports that reserving would help: of servers, of services that are down, and of self-connects."""
    expected = _ports_in_use(subject) | {service.port for service in subject.services}
    return PortSet.of(expected & exposed_ports(subject.seen))


def _ports_in_use(subject: Subject) -> set[int]:
    return {one.endpoints.local.port for one in (*subject.seen.listeners, *subject.seen.self_connects)}


def _services_down(subject: Subject) -> Iterator[Finding]:
    exposed = exposed_ports(subject.seen)
    used = _ports_in_use(subject)  # what holds the port is a finding of its own, and worse
    used |= {port for one in subject.held for port in one.ports}
    names: dict[str, list[int]] = {}
    for service in subject.services:
        if service.port in exposed and service.port not in used:
            names.setdefault(service.name, []).append(service.port)
    groups = sorted(names.items(), key=lambda item: (item[0] == "", min(item[1])))
    rest = [port for _, ports in groups[_MOST_NAMED:] for port in ports]
    for name, ports in [*groups[:_MOST_NAMED], *([("", rest)] if rest else [])]:
        if told := subject.told("TB109", ports):
            yield _down(subject, name, told)


def _down(subject: Subject, name: str, ports: Sequence[int]) -> Finding:
    listed = PortSet.of(ports)
    one = len(ports) == 1
    who = name or ("the service" if one else "services")
    where = f"port {ports[0]}" if one else f"{len(ports)} ports ({shortened(str(listed))})"
    client, severity, facts = _odds_of(subject, ports)
    return Finding(
        "TB109",
        severity,
        Confidence.CERTAIN,
        f"{who[0].upper()}{who[1:]} on {where} {'is' if one or name else 'are'} down, and "
        f"{_may_be_given(client, 'its port' if one else 'one of these ports')}.",
        "The client would be connected to itself then, and keep the server from starting: Address already in use.",
        (prevention_remedy(subject, listed), *guard_remedy(subject)),
        subject.seen.namespace,
        Endpoint("0.0.0.0", ports[0]),
        facts=facts,
        ports=listed,
    )


def _listeners(subject: Subject) -> Iterator[Finding]:
    exposed = exposed_ports(subject.seen)
    listening = _by_port(subject)
    at_risk = subject.told("TB204", (port for port in listening if port in exposed))
    expected = {service.port for service in subject.services}
    # A program may have asked for any port; then nobody expects it on this one.
    for confidence, ports in (
        (Confidence.CERTAIN, [port for port in at_risk if port in expected]),
        (Confidence.LIKELY, [port for port in at_risk if port not in expected]),
    ):
        if ports:
            yield _listening(subject, ports, listening, confidence)


def _by_port(subject: Subject) -> dict[int, list[TcpSocket]]:
    listening: dict[int, list[TcpSocket]] = {}
    for listener in subject.seen.listeners:
        listening.setdefault(listener.endpoints.local.port, []).append(listener)
    return listening


def _owners(subject: Subject, sockets: Sequence[TcpSocket]) -> tuple[Process, ...]:
    return tuple(dict.fromkeys(owner for one in sockets for owner in subject.owners.get(one.inode, ())))


def _listening(
    subject: Subject, ports: list[int], listening: dict[int, list[TcpSocket]], confidence: Confidence
) -> Finding:
    listed = PortSet.of(ports)
    owners = {port: _owners(subject, listening[port]) for port in ports}
    every = tuple(dict.fromkeys(owner for some in owners.values() for owner in some))
    names = list(dict.fromkeys(owner.name for owner in every))
    client, severity, odds_facts = _odds_of(subject, ports)
    if len(ports) == 1:
        who = f"{join_words(names[:3])} {'listens' if len(names) == 1 else 'listen'}" if names else "A server listens"
        what = f"{who} on port {ports[0]}: while it restarts, {_may_be_given(client, 'that port')}."
    else:
        what = (
            f"Servers listen on {len(ports)} ports of the ephemeral range ({shortened(str(listed))}): while one of "
            f"them restarts, {_may_be_given(client, 'its port')}."
        )
    return Finding(
        "TB204",
        severity,
        confidence,
        what,
        "The client would be connected to itself then, and keep the server from starting: Address already in use.",
        (prevention_remedy(subject, listed), *guard_remedy(subject)),
        subject.seen.namespace,
        listening[ports[0]][0].endpoints.local,
        every,
        (*_rows(owners), *odds_facts) if len(ports) > 1 else odds_facts,
        listed,
    )


def _rows(owners: dict[int, tuple[Process, ...]]) -> Iterator[Fact]:
    """Yield a line for each process with its ports."""
    ports: dict[str, list[int]] = {}
    for port, some in owners.items():
        who = ", ".join(map(str, some[:2])) or "a process that is not visible"
        ports.setdefault(who, []).append(port)
    rows = list(ports.items())
    for who, each in rows[:_MOST_ROWS]:
        yield Fact(who, str(PortSet.of(each)), text=f"port{'' if len(each) == 1 else 's'} {PortSet.of(each)}")
    if more := rows[_MOST_ROWS:]:
        yield Fact("and more", len(more), "processes")


def _unexpected(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each named service on whose port a program of another name listens."""
    listening = _by_port(subject)
    for service in subject.services:
        if not service.name or " " in service.name or service.port not in listening:
            continue
        owners = _owners(subject, listening[service.port])
        if not owners or any(_fits(service.name, owner) for owner in owners):
            continue
        if not subject.told("TB212", [service.port]):
            continue
        who = join_words(map(str, owners[:3]))
        yield Finding(
            "TB212",
            Severity.WARNING,
            Confidence.LIKELY,
            f"{service.name} is expected on port {service.port}, but {who} "
            f"{'listens' if len(owners) == 1 else 'listen'} there.",
            "While another program has the port, the service cannot start: Address already in use.",
            (
                Remedy(f"if it is the right program, write its name for port {service.port} in the --ports file"),
                *_free(subject, service, owners),
            ),
            subject.seen.namespace,
            listening[service.port][0].endpoints.local,
            owners,
            ports=PortSet.of([service.port]),
        )


def _free(subject: Subject, service: Service, owners: Sequence[Process]) -> Iterator[Remedy]:
    from tailbite.host.explain.remedies import restart_holders

    yield from restart_holders(owners, verb="stop")
    if service.port in exposed_ports(subject.seen):
        yield prevention_remedy(subject, PortSet.of([service.port]))


def _fits(name: str, owner: Process) -> bool:
    """Tell whether a process can be the service: one name has to contain the other."""
    wanted = re.sub(r"[^a-z0-9]", "", name.lower())
    texts = [
        re.sub(r"[^a-z0-9]", "", text.lower()) for text in (owner.name, owner.command, owner.unit, owner.container)
    ]
    return any(wanted in text for text in texts) or (len(texts[0]) > 2 and texts[0] in wanted)


def _may_be_given(client: str | None, port: str) -> str:
    return f"{client} may be given {port}" if client else f"no client is given {port} while other ports are free"


def _odds_of(subject: Subject, ports: Sequence[int]) -> tuple[str | None, Severity, tuple[Fact, ...]]:
    """Return which client is at risk, how severe that is, and the odds of the port that is hit most easily.

    Ports of one parity have nearly the same odds (RFC 6056 double-hash in Linux), so one of each stands for all.
    """
    samples = [next(iter(some)) for parity in (0, 1) if (some := [port for port in ports if port % 2 == parity])]
    best: list[tuple[str, Odds]] = []
    for name, first in (("odds", False), ("odds if it binds first", True)):
        seen = [_sampled_odds(subject, port, binds_first=first) for port in samples]
        best.append((name, next((one for one in seen if one.is_possible), seen[0])))
    dials, binds = (one.is_possible for _, one in best)
    facts = tuple(
        Fact(
            name,
            round(one.seconds(every=_RETRY), 3) if one.is_possible else None,
            "s",
            one.sentence(every=_RETRY),
        )
        for name, one in best
    )
    client = client_at_risk(dials, binds)
    return client, Severity.WARNING if client else Severity.NOTICE, facts


def _sampled_odds(subject: Subject, port: int, *, binds_first: bool) -> Odds:
    seen = subject.seen
    assert seen.ephemeral is not None  # or no port is exposed
    # Ports that are held otherwise change the odds little, and would make them a computation per port.
    scatters = (seen.sysctl("ip_local_port_step_width") or "0") not in ("0", "1")
    return _cached_odds(port, seen.ephemeral, seen.reserved or PortSet(), binds_first, subject.selection, scatters)


@lru_cache(maxsize=256)
def _cached_odds(
    port: int, ephemeral: PortRange, taken: PortSet, binds_first: bool, way: Selection, scatters: bool
) -> Odds:
    return odds(port, ephemeral, taken, binds_first=binds_first, selection=way, scatters=scatters)


def _range(subject: Subject) -> Iterator[Finding]:
    ephemeral = subject.seen.ephemeral
    if ephemeral is None or ephemeral.low >= LINUX_DEFAULT.low:
        return
    yield Finding(
        "TB207",
        Severity.NOTICE,
        Confidence.CERTAIN,
        f"The ephemeral range {ephemeral} begins below the default {LINUX_DEFAULT.low}, among the ports of services.",
        "Each service whose port lies in the range can lose it to a client while it is down.",
        (
            Remedy(
                "move the range, or reserve the ports of all services in it",
                (fix_command(subject, f"--range {LINUX_DEFAULT}"),),
                needs_root=True,
            ),
        ),
        subject.seen.namespace,
    )
