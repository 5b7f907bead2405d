"""Examination of a network namespace: what puts it at risk, or hurts it now: snapshot -> findings. Pure.

=====  =============================================================  ========
code   situation                                                      severity
=====  =============================================================  ========
TB101  a socket is connected to itself now                            critical
TB102  a self-connect left a TIME-WAIT, which blocks the port         warning
TB103  a connection has the port of a service as its source port      critical
TB104  TIME-WAIT of a connection blocks the port of a service         warning
TB105  a program has bound the port of a service                      critical
TB109  a service that should listen is down, and its port is exposed  warning
TB111  connections of a service outlive it                            warning
TB204  a server listens on a port that is exposed while it is down    warning
TB205  ports are reserved now, but not after the next boot            warning
TB206  a line of a sysctl.d file has no effect                        warning
TB207  the ephemeral range covers ports that services use             notice
TB208  this kernel has no IP_LOCAL_PORT_RANGE                         notice
TB209  this kernel cannot destroy sockets, or not all                 notice
TB210  this kernel has simultaneous open switched off                 fine
TB211  the source ports to a destination are used up                  critical
TB212  another program has the port of an expected service            warning
=====  =============================================================  ========

"Exposed" means: inside the ephemeral range and not reserved, so that the kernel may choose it as a source port.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tailbite.core.ports import PortSet
from tailbite.host.explain.exhaustion import exhaustion_findings
from tailbite.host.explain.finding import Confidence, Finding, Remedy, Severity
from tailbite.host.explain.risk import risks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.host.explain.subject import Subject
    from tailbite.host.see.abilities import Ability

__all__ = ["HOLDS", "examine_kernel", "examine_namespace", "ports_to_free"]

HOLDS = frozenset({"TB101", "TB102", "TB103", "TB104", "TB105", "TB111"})
"""Codes about what holds a port and is not a server."""

_AT_RISK = frozenset({"TB109", "TB204"})
_BOTH = frozenset({4, 6})
_LACKING = {
    "IP_LOCAL_PORT_RANGE": (
        "TB208",
        "tailbite keeps a client from its own port in another way, which costs more system calls per connect.",
        "use a kernel that has it: Linux 6.3 or newer, or an older one to which the distribution added it",
    ),
    "SOCK_DESTROY": (
        "TB209",
        "A self-connect can only be ended by its owner; its TIME-WAIT by root, with TCP_REPAIR (fix --kill).",
        "use a kernel with CONFIG_INET_DIAG_DESTROY",
    ),
    "SOCK_DESTROY of TIME-WAIT": (
        "TB209",
        "`ss -K` cannot end a TIME-WAIT here. `tailbite fix --kill` ends that of a self-connect with TCP_REPAIR.",
        "upgrade the kernel, if other TIME-WAITs have to be ended as well",
    ),
}


def examine_namespace(subject: Subject) -> list[Finding]:
    """Return what is wrong with one namespace, the worst first."""
    found = [*_held(subject), *risks(subject)]
    if subject.usage is not None:
        found += exhaustion_findings(subject.usage)
    if subject.seen.sysctl("tcp_simult_connect") == "0":
        found = [_switched_off(subject), *(_without_risk(one, "simultaneous open is switched off") for one in found)]
    elif any(one.code in _AT_RISK and one.severity.is_bad for one in found) and subject.guarded() >= _BOTH:
        found = [_without_risk(one, "the host guard refuses self-connects") for one in found]
    order = list(Severity)
    return sorted(
        found, key=lambda one: (order.index(one.severity), one.code, one.endpoint.port if one.endpoint else 1 << 16)
    )


def ports_to_free(findings: list[Finding]) -> PortSet:
    """Return the ports that a self-connect, or what it left, keeps from their servers."""
    return PortSet.of(one.endpoint.port for one in findings if one.code in ("TB101", "TB102") and one.endpoint)


def _held(subject: Subject) -> Iterator[Finding]:
    services = {service.port: service.name for service in subject.services}
    for one in subject.held:
        port = one.endpoint.port if one.endpoint else 0
        who = services.get(port)
        named = "" if who is None else f" The port is that of {who}." if who else " A service should have that port."
        yield replace(one, what=f"{one.what}{named}")


def examine_kernel(subject: Subject, able: tuple[Ability, ...]) -> list[Finding]:
    """Return what the kernel lacks; told once, for the caller's own namespace."""
    lacking = {one.name: one for one in able if one.present is False}
    if "SOCK_DESTROY" in lacking:
        lacking.pop("SOCK_DESTROY of TIME-WAIT", None)
    return [
        Finding(
            code,
            Severity.NOTICE,
            Confidence.CERTAIN,
            f"This kernel lacks {name} ({lacking[name].since}).",
            why,
            (Remedy(remedy),),
            subject.seen.namespace,
        )
        for name, (code, why, remedy) in _LACKING.items()
        if name in lacking
    ]


def _switched_off(subject: Subject) -> Finding:
    return Finding(
        "TB210",
        Severity.FINE,
        Confidence.LIKELY,
        "Simultaneous open is switched off here (tcp_simult_connect is 0): a new self-connect cannot complete.",
        "That is a setting of linux-hardened and grsecurity kernels, not of kernel.org's.",
        (),
        subject.seen.namespace,
    )


def _without_risk(one: Finding, reason: str) -> Finding:
    if one.code not in _AT_RISK:
        return one
    why = (
        f"A client that dials the port itself is refused, because {reason}. One that dials another port holds the "
        "connection, and the service cannot start until that ends."
    )
    facts = tuple(fact for fact in one.facts if not fact.name.startswith("odds"))
    return replace(one, severity=Severity.NOTICE, why=why, facts=facts)
