"""What may happen: servers and services whose ports the kernel may give to a client. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tailbite.core.address import Endpoint
from tailbite.core.odds import odds
from tailbite.core.ports import PortRange, PortSet
from tailbite.core.selection import Selection
from tailbite.host.explain.finding import Confidence, Fact, Finding, Remedy, Severity
from tailbite.host.explain.subject import drawn_ports, fix_command, guard, prevent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.host.explain.subject import Subject
    from tailbite.kernel.sock_diag import TcpSocket

__all__ = ["ports_at_risk", "risks"]

LINUX_DEFAULT = PortRange(32768, 60999)
_MOST = 40  # findings about servers: more are read by nobody
_RETRY = 1.0  # seconds between attempts that the odds are told for


def risks(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each port at risk, and one for a range that puts many there."""
    yield from _services_down(subject)
    yield from _listeners(subject)
    yield from _range(subject)


def ports_at_risk(subject: Subject) -> PortSet:
    """Return the ports that reserving would help: of servers, of services that are down, and of self-connects."""
    seen = subject.seen
    expected = {one.endpoints.local.port for one in (*seen.listeners, *seen.self_connects)}
    return PortSet.of(expected | {service.port for service in subject.services}) & drawn_ports(seen)


def _services_down(subject: Subject) -> Iterator[Finding]:
    drawn = drawn_ports(subject.seen)
    # A port that a self-connect holds is a matter of its own, and worse.
    held = {one.endpoints.local.port for one in (*subject.seen.listeners, *subject.seen.self_connects)}
    for service in subject.services:
        if service.port in drawn and service.port not in held:
            yield _risk(
                subject,
                "TB203",
                Confidence.CERTAIN,
                Endpoint("0.0.0.0", service.port),
                f"{service.title} is down, and a client that retries may be given its port.",
            )


def _listeners(subject: Subject) -> Iterator[Finding]:
    drawn = drawn_ports(subject.seen)
    listening: dict[int, list[TcpSocket]] = {}
    for listener in subject.seen.listeners:
        listening.setdefault(listener.endpoints.local.port, []).append(listener)
    expected = {service.port for service in subject.services}
    at_risk = sorted(port for port in listening if port in drawn)
    for port in at_risk[:_MOST]:
        listeners = listening[port]
        owners = tuple(dict.fromkeys(owner for one in listeners for owner in subject.owners.get(one.inode, ())))
        who = ", ".join(dict.fromkeys(owner.name for owner in owners)) or "A server"
        risk = _risk(
            subject,
            "TB204",
            # It may have asked for any port; then nobody expects it on this one.
            Confidence.CERTAIN if port in expected else Confidence.LIKELY,
            listeners[0].endpoints.local,
            f"{who} listens on port {port}: while it restarts, a client that retries may be given that port.",
        )
        yield replace(risk, owners=owners)
    if rest := PortSet.of(at_risk[_MOST:]):
        yield Finding(
            "TB204",
            Severity.WARNING,
            Confidence.LIKELY,
            f"Servers listen on {len(rest)} more ports inside the ephemeral range.",
            "So many are told together; their odds are those of the others.",
            (
                Remedy(
                    "reserve them, or move the range away from them",
                    (fix_command(subject, f"--reserve {rest}"),),
                    needs_root=True,
                ),
            ),
            subject.seen.namespace,
            facts=(Fact("ports", str(rest)),),
        )


def _risk(subject: Subject, code: str, confidence: Confidence, end: Endpoint, what: str) -> Finding:
    seen = subject.seen
    assert seen.ephemeral is not None  # or nothing is drawn
    # Ports that are held otherwise change the odds little, and would make them a computation per port.
    taken = seen.reserved or PortSet()
    way = Selection.RANDOM if (seen.sysctl("ip_local_port_step_width") or "0") != "0" else subject.selection
    dials, binds = (
        odds(end.port, seen.ephemeral, taken, binds_first=first, selection=way) for first in (False, True)
    )
    worst = dials if dials.is_possible else binds
    return Finding(
        code,
        Severity.WARNING if worst.is_possible else Severity.NOTICE,
        confidence,
        what,
        "It would be connected to itself then, and keep the server from starting: Address already in use.",
        (prevent(subject, end.port), guard()),
        seen.namespace,
        end,
        facts=(
            Fact("odds", dials.sentence(every=_RETRY)),
            Fact("odds if it binds first", binds.sentence(every=_RETRY)),
        ),
    )


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
