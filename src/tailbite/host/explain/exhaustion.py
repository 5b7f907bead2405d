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
_NO_PORT = "programs that bind a source address: set IP_BIND_ADDRESS_NO_PORT before bind(address, 0)"
_NO_PORT_LEFT = (
    "Cannot assign requested address (EADDRNOTAVAIL); a bind to port 0: Address already in use (EADDRINUSE)."
)
_ODD = "The range has an odd number of ports, and each search of the kernel misses the first of them or the last."


def exhaustion_findings(usage: PortUsage, *, host: str | None = None, port: int | None = None) -> Iterator[Finding]:
    """Yield a finding for each destination to which the source ports are used up, or nearly.

    Args:
        usage: the source ports in use.
        host: only destinations with this address, and what concerns its family; ``0.0.0.0`` stands for all of IPv4,
            ``::`` for every address.
        port: only destinations with this port, and what concerns all of them.
    """
    if usage.size and not usage.available:
        yield _none_left(usage)
        return
    wanted = None if host in (None, "::") else ip_address(str(host))
    full = [
        one
        for one in usage.destinations
        if (port is None or one.remote.port == port) and _concerns(wanted, one.remote.host, is_destination=True)
    ]
    for one in full[:_SHOWN]:
        yield _to_one(usage, one)
    if usage.available and (usage.bound >= usage.available or usage.may_miss()) and not full:
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
    used = usage.in_use(one)
    left = dict(one.states).get(TcpState.TIME_WAIT, 0) if usage.reuses_time_wait(one) else 0
    gone = used - left >= usage.available
    states = [Fact(state.label, number, "sockets") for state, number in one.states]
    bound = used - one.used
    if bound:
        states.append(Fact("bound by programs, for every destination", bound, "ports"))
    words = [f"{number} in {state.label}" for state, number in one.states]
    words += [f"{bound} bound by programs"] if bound else []
    if usage.may_miss(one):
        effect = f"A further connect from there may fail: Cannot assign requested address (EADDRNOTAVAIL). {_ODD}"
    elif gone:
        effect = "A further connect from there fails: Cannot assign requested address (EADDRNOTAVAIL)."
    elif used >= usage.available:
        effect = "A connect from there fails (EADDRNOTAVAIL) until a TIME-WAIT is a second old (tcp_tw_reuse)."
    else:
        effect = "When none is left, a connect from there fails: Cannot assign requested address (EADDRNOTAVAIL)."
    return Finding(
        "TB211",
        Severity.CRITICAL if gone else Severity.WARNING,
        Confidence.CERTAIN,
        f"{used} of {usage.available} source ports from {one.source} to {one.remote} are in use: "
        f"{join_words(words)}.",
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
            Remedy(_NO_PORT),
            *_more_ports(usage),
        ),
        usage.namespace,
        facts=(Fact("source ports", usage.available, "ports"), Fact("in use", one.used, "ports")),
    )


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
    if usage.bound > usage.listening:
        yield Remedy(_NO_PORT)
    if usage.listening:
        yield Remedy("servers that listen on ports of the ephemeral range: move them to ports outside it")
    yield from _more_ports(usage)


def _more_ports(usage: PortUsage, begin: str = "or ") -> Iterator[Remedy]:
    yield Remedy(
        f"{begin}give the kernel more ports: widen the ephemeral range, or reserve fewer",
        (usage.namespace.tailbite("fix --range LOW-HIGH --apply"),),
        needs_root=True,
    )


def _none_left(usage: PortUsage) -> Finding:
    ports = "its only port is" if usage.size == 1 else f"all {usage.size} ports are"
    return Finding(
        "TB211",
        Severity.CRITICAL,
        Confidence.CERTAIN,
        f"The ephemeral range has no source port left to choose: {ports} reserved.",
        f"A connect fails: {_NO_PORT_LEFT}",
        tuple(_more_ports(usage, begin="")),
        usage.namespace,
        facts=(Fact("source ports", 0, "ports"),),
    )


def _bound(usage: PortUsage) -> Finding:
    is_all = usage.bound >= usage.available
    which = f"All {usage.available}" if is_all else f"{usage.bound} of {usage.available}"
    left = "none is left for any destination" if is_all else "only an end of the range is left"
    return Finding(
        "TB211",
        Severity.CRITICAL if is_all else Severity.WARNING,
        Confidence.CERTAIN,
        f"{which} source ports are bound by programs, so {left}.",
        f"A connect {'fails' if is_all else 'may fail'}: {_NO_PORT_LEFT}{'' if is_all else f' {_ODD}'}",
        tuple(_common(usage)),
        usage.namespace,
        facts=(Fact("source ports", usage.available, "ports"), Fact("bound by programs", usage.bound, "ports")),
    )
