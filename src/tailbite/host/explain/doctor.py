"""What puts a network namespace at risk, or hurts it now: snapshot -> findings. Pure.

=====  =============================================================  ========
code   situation                                                      severity
=====  =============================================================  ========
TB201  a socket is connected to itself now                            critical
TB202  a self-connect left a TIME-WAIT, which blocks the port         warning
TB203  a service that should listen is down, and its port is drawn    warning
TB204  a server listens on a port that is drawn while it is down      warning
TB205  ports are reserved now, and not after the next boot            warning
TB206  a file reserves ports in vain, because a later one wins        warning
TB207  the ephemeral range covers ports that services use             notice
TB208  this kernel has no IP_LOCAL_PORT_RANGE                         notice
TB209  this kernel has no SOCK_DESTROY                                notice
TB210  this kernel has simultaneous open switched off                 fine
=====  =============================================================  ========

"Drawn" means: inside the ephemeral range and not reserved, so that a client may get it as its source port.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tailbite.core.ports import PortSet
from tailbite.host.explain.finding import Confidence, Fact, Finding, Remedy, Severity
from tailbite.host.explain.risk import risks
from tailbite.host.explain.subject import fix_command, guard, prevent
from tailbite.kernel.sock_diag import TcpState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.host.explain.subject import Subject
    from tailbite.host.see.abilities import Ability

__all__ = ["examine_kernel", "examine_namespace", "ports_to_free"]


def examine_namespace(subject: Subject) -> list[Finding]:
    """Return what is wrong with one namespace, the worst first."""
    found = [*_self_connects(subject), *risks(subject)]
    if subject.seen.sysctl("tcp_simult_connect") == "0":
        found = [_switched_off(subject), *(_without_risk(one) for one in found)]
    order = list(Severity)
    return sorted(
        found, key=lambda one: (order.index(one.severity), one.code, one.endpoint.port if one.endpoint else 1 << 16)
    )


def ports_to_free(findings: list[Finding]) -> PortSet:
    """Return the ports that a self-connect, or what it left, keeps from their servers."""
    return PortSet.of(one.endpoint.port for one in findings if one.code in ("TB201", "TB202") and one.endpoint)


def _self_connects(subject: Subject) -> Iterator[Finding]:
    names = {service.port: str(service) for service in subject.services}
    for one in subject.sightings:
        end = one.socket.endpoints.local
        server = names.get(end.port, "its server")
        kill = Remedy(f"free port {end.port} at once", (fix_command(subject, f"--kill {end.port}"),), needs_root=True)
        if one.socket.state is TcpState.TIME_WAIT:
            left = round(one.socket.expires_ms / 1000)
            yield Finding(
                "TB202",
                Severity.WARNING,
                Confidence.CERTAIN,
                f"A closed self-connect on {end} left a TIME-WAIT: {server} cannot bind the port for {left} s more.",
                "close() on a self-connect is a close on both ends, so TIME-WAIT stays (RFC 9293 section 3.6), and "
                "SO_REUSEADDR on the server does not help against it.",
                (kill, Remedy(f"wait {left} s"), prevent(subject, end.port)),
                subject.seen.namespace,
                end,
                one.owners,
            )
            continue
        who = ", ".join(map(str, one.owners)) or "a process that cannot be seen"
        yield Finding(
            "TB201",
            Severity.CRITICAL,
            Confidence.CERTAIN,
            f"{who} is connected to itself on {end}: {server} cannot bind the port, and what {who} reads is its own.",
            "It dialled the port while nobody listened there, and had the same port as its source port: drawn by the "
            "kernel, or bound by itself.",
            (kill, prevent(subject, end.port), guard()),
            subject.seen.namespace,
            end,
            one.owners,
            (Fact("state", one.socket.state.label),),
        )


def examine_kernel(subject: Subject, able: tuple[Ability, ...]) -> list[Finding]:
    """Return what the kernel lacks; told once, for the caller's own namespace."""
    lacking = {one.name: one for one in able if one.present is False}
    texts = {
        "IP_LOCAL_PORT_RANGE": (
            "TB208",
            "tailbite keeps the port away by binding first and looking, which costs more system calls per connect.",
            "upgrade to Linux 6.3 or newer",
        ),
        "SOCK_DESTROY": (
            "TB209",
            "A self-connect can only be ended by its owner, and its TIME-WAIT only by waiting a minute.",
            "use a kernel with CONFIG_INET_DIAG_DESTROY",
        ),
    }
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
        for name, (code, why, remedy) in texts.items()
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


def _without_risk(one: Finding) -> Finding:
    return replace(one, severity=Severity.NOTICE) if one.code in ("TB203", "TB204") else one
