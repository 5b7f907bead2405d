"""Findings about source ports that are used up, or nearly. Pure."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from tailbite.core.ports import PortSet
from tailbite.host.explain.finding import Confidence, Fact, Finding, Remedy, Severity
from tailbite.host.explain.phrases import join_words
from tailbite.kernel.inet_diag import TcpState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address, IPv6Address

    from tailbite.host.see.exhaustion import Destination, PortUsage, Source

__all__ = ["exhaustion_findings"]

_SHOWN = 10


def exhaustion_findings(usage: PortUsage, *, host: str | None = None, port: int | None = None) -> Iterator[Finding]:
    """Yield a finding for each destination to which the source ports are used up, or nearly.

    Args:
        usage: the source ports in use.
        host: only destinations with this address, and what concerns its family; ``0.0.0.0`` stands for all of IPv4,
            ``::`` for every address.
        port: only destinations with this port, and what concerns all of them.
    """
    wanted = None if host in (None, "::") else ip_address(str(host))
    full = [
        one
        for one in usage.destinations
        if (port is None or one.remote.port == port) and _concerns(wanted, one.remote.host, is_destination=True)
    ]
    for one in full[:_SHOWN]:
        yield _to_one(usage, one)
    if usage.available and usage.bound >= usage.available and not full:
        yield _bound(usage)
        return
    told = {one.source for one in full}
    for source in usage.sources[:_SHOWN]:
        if source.address not in told and _concerns(wanted, source.address, is_destination=False):
            yield _from_one(usage, source)


def _concerns(wanted: IPv4Address | IPv6Address | None, address: str, *, is_destination: bool) -> bool:
    """Tell whether a destination, or a source address of clients, has to do with the address that was asked for."""
    if wanted is None:
        return True
    has_family = (":" in address) == (wanted.version == 6)
    if not is_destination or wanted.is_unspecified:
        return has_family
    return has_family and ip_address(address) == wanted


def _to_one(usage: PortUsage, one: Destination) -> Finding:
    used = one.used + usage.bound
    left = dict(one.states).get(TcpState.TIME_WAIT, 0) if usage.reuses_time_wait(one) else 0
    gone = used - left >= usage.available
    states = [Fact(state.label, number, "sockets") for state, number in one.states]
    if usage.bound:
        states.append(Fact("bound by programs, for every destination", usage.bound, "ports"))
    words = join_words([f"{number} in {state.label}" for state, number in one.states] + _bound_words(usage))
    if gone:
        effect = "A further connect from there fails: Cannot assign requested address (EADDRNOTAVAIL)."
    elif used >= usage.available:
        effect = "A connect from there fails (EADDRNOTAVAIL) until a TIME-WAIT is a second old (tcp_tw_reuse)."
    else:
        effect = "When none is left, a connect from there fails: Cannot assign requested address (EADDRNOTAVAIL)."
    return Finding(
        "TB211",
        Severity.CRITICAL if gone else Severity.WARNING,
        Confidence.CERTAIN,
        f"{used} of {usage.available} source ports from {one.source} to {one.remote} are in use: {words}.",
        f"{effect} A source port is used once per destination and source address.",
        tuple(_remedies(usage, one)),
        usage.namespace,
        one.remote,
        facts=(Fact("source ports", usage.available, "ports"), Fact("in use", used, "ports"), *states),
        ports=PortSet.of([one.remote.port]),
    )


def _from_one(usage: PortUsage, one: Source) -> Finding:
    gone = one.used >= usage.available
    begin = "A" if gone else "When none is left, a"
    return Finding(
        "TB211",
        Severity.WARNING if gone else Severity.NOTICE,
        Confidence.POSSIBLE,
        f"{one.used} of {usage.available} source ports of {one.address} are in use, to {one.destinations} "
        "destinations together.",
        f"{begin} client that binds this address to port 0 before it connects fails: Address already in use "
        "(EADDRINUSE). Where the connections there were bound like that, every other connect fails too, whatever its "
        "destination: Cannot assign requested address (EADDRNOTAVAIL). The kernel does not list which were bound.",
        (
            Remedy("programs that bind a source address: set IP_BIND_ADDRESS_NO_PORT before bind(address, 0)"),
            *_more_ports(usage),
        ),
        usage.namespace,
        facts=(Fact("source ports", usage.available, "ports"), Fact("in use", one.used, "ports")),
    )


def _bound_words(usage: PortUsage) -> list[str]:
    return [f"{usage.bound} bound by programs"] if usage.bound else []


def _remedies(usage: PortUsage, one: Destination) -> Iterator[Remedy]:
    left = dict(one.states).get(TcpState.TIME_WAIT, 0)
    if left:
        yield Remedy("let the client keep its connections and use them again, instead of one per request")
        if left * 2 >= one.used:
            yield Remedy("or wait: TIME-WAIT ends 60 s after the close")
        if left * 2 >= one.used and not usage.reuses_time_wait(one):
            yield Remedy(
                "or let the kernel use ports in TIME-WAIT again after a second (needs TCP timestamps)",
                (usage.namespace.enter("sysctl -w net.ipv4.tcp_tw_reuse=1"),),
                needs_root=True,
            )
    else:
        yield Remedy("let the client hold fewer connections to that destination, or close those it no longer needs")
    yield Remedy("or spread the connections over several source or destination addresses")
    yield from _common(usage)


def _common(usage: PortUsage) -> Iterator[Remedy]:
    if usage.bound:
        yield Remedy("programs that bind a source address: set IP_BIND_ADDRESS_NO_PORT before bind(address, 0)")
    yield from _more_ports(usage)


def _more_ports(usage: PortUsage) -> Iterator[Remedy]:
    yield Remedy(
        "or give the kernel more ports: widen the ephemeral range, or reserve fewer",
        (usage.namespace.tailbite("fix --range LOW-HIGH --apply"),),
        needs_root=True,
    )


def _bound(usage: PortUsage) -> Finding:
    return Finding(
        "TB211",
        Severity.CRITICAL,
        Confidence.CERTAIN,
        f"All {usage.available} source ports are bound by programs, so none is left for any destination.",
        "A connect fails: Cannot assign requested address (EADDRNOTAVAIL); a bind to port 0 fails with EADDRINUSE.",
        tuple(_common(usage)),
        usage.namespace,
        facts=(Fact("source ports", usage.available, "ports"), Fact("bound by programs", usage.bound, "ports")),
    )
