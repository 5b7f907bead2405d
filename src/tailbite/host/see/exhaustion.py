"""Source ports in use to each destination: how near a client is to EADDRNOTAVAIL.

A source port is used once per destination (address and port) and source address. When every port of the range that is
not reserved is in use to a destination, connect(2) to it fails: *Cannot assign requested address*. A port that a
program bound itself, ``bind((address, 0))``, is used up for all destinations, also once it is connected. The kernel
does not list which connections were bound, so a source address of which every port is in use is reported too.

The kernel's counters (``/proc/net/sockstat``) say in a microsecond whether there are enough sockets for that; only
then all sockets are listed.
"""

from __future__ import annotations

import socket
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from tailbite.core.address import Endpoint, canonical_host
from tailbite.core.ports import PortSet
from tailbite.host.see.usage import read_usage, usage_here
from tailbite.host.see.visit import call_in_namespace
from tailbite.kernel.inet_diag import CONNECTION_STATES, TcpState
from tailbite.kernel.sock_diag import SockDiag
from tailbite.kernel.sysctl import read_sysctl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tailbite.core.ports import PortRange
    from tailbite.host.see.records import Namespace
    from tailbite.kernel.inet_diag import TcpSocket
    from tailbite.kernel.sockstat import TcpUsage

__all__ = ["FULL", "Destination", "PortUsage", "Source", "destinations_of"]

FULL = 0.9
"""Share of the source ports in use from which a destination is reported."""


@dataclass(frozen=True, slots=True)
class Destination:
    """The source ports in use from one address to one destination.

    Attributes:
        source: the local address.
        remote: the destination.
        used: how many source ports of the range are in use to it.
        states: how many of them are in which state.
        also_bound: how many of them a program has bound as well, on this address or another.
        ends: how many of :attr:`PortUsage.ends` are among them.
    """

    source: str
    remote: Endpoint
    used: int
    states: tuple[tuple[TcpState, int], ...]
    also_bound: int = 0
    ends: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """The source ports in use from one address, whatever the destination.

    Attributes:
        address: the local address.
        used: how many source ports of the range are in use, bound ones among them.
        destinations: the number of destinations.
    """

    address: str
    used: int
    destinations: int


@dataclass(frozen=True, slots=True)
class PortUsage:
    """The use of source ports in one namespace.

    Attributes:
        namespace: the namespace.
        available: how many ports the kernel may choose from: the range without the reserved ones.
        bound: how many of them are bound by programs, and so in use for every destination.
        listening: how many of those are ports of servers.
        size: the number of ports in the range, reserved ones among them; 0 if it is not known.
        ends: the first and the last port of a range with an odd number of ports, if nobody has bound them. connect
            rounds the number down, so each search misses one of the two (__inet_hash_connect, Linux
            net/ipv4/inet_hashtables.c).
        distinct: how many of them are in use at all; a client that binds to port 0 needs one that is not.
        sources: the addresses from which at least :data:`FULL` of what is available is in use to several
            destinations together, the fullest first.
        destinations: those that use at least :data:`FULL` of what is available, the fullest first.
        most: the most source ports in use to any destination; 0 if they were not counted.
        tw_reuse: ``tcp_tw_reuse``: 1 lets connect use a port in TIME-WAIT again after a second, 2 (the default since
            Linux 4.19) on loopback only (ip-sysctl.rst).
    """

    namespace: Namespace
    available: int
    bound: int = 0
    distinct: int = 0
    destinations: tuple[Destination, ...] = ()
    most: int = 0
    tw_reuse: str = ""
    sources: tuple[Source, ...] = ()
    listening: int = 0
    size: int = 0
    ends: frozenset[int] = frozenset()

    @property
    def least(self) -> float:
        """From how many ports in use a destination is reported."""
        return FULL * (self.available - bool(self.ends))

    def may_miss(self, one: Destination | None = None) -> bool:
        """Tell whether a search may miss the only port that is left, for a destination or for all of them."""
        used, ends = (self.bound, 0) if one is None else (self.in_use(one), one.ends)
        return self.available - used == 1 and len(self.ends) - ends == 1

    def in_use(self, one: Destination) -> int:
        """Return how many ports are in use for a destination: those of its connections, and all that are bound."""
        return one.used + self.bound - one.also_bound

    def reuses_time_wait(self, one: Destination) -> bool:
        """Tell whether connect uses ports in TIME-WAIT to this destination again a second after the close."""
        loopback = one.remote.host == "::1" or one.remote.host.startswith("127.")
        return self.tw_reuse == "1" or (self.tw_reuse == "2" and loopback)


def destinations_of(
    namespace: Namespace,
    ephemeral: PortRange | None,
    reserved: PortSet | None,
    bound: Iterable[TcpSocket] | None = None,
) -> PortUsage:
    """Return how many source ports are in use to which destination; nothing where the kernel refuses to list them.

    Args:
        namespace: the namespace.
        ephemeral: its ``ip_local_port_range``.
        reserved: its ``ip_local_reserved_ports``.
        bound: its listening and bound sockets, if they have been listed already.
    """
    if ephemeral is None:
        return PortUsage(namespace, 0)
    ports = PortSet.of([ephemeral]) - (reserved or PortSet())
    is_odd = len(ephemeral) % 2 == 1 and len(ephemeral) > 1
    ends = frozenset(port for port in (ephemeral.low, ephemeral.high) if is_odd and port in ports)
    usage = PortUsage(namespace, len(ports), size=len(ephemeral), ends=ends)
    if not ports:
        return usage
    try:
        if bound is None:
            return call_in_namespace(namespace, partial(_count_here, usage, ports))
        held = _with_bound(usage, bound, ports)[0]
        counted = read_usage(namespace)
        if counted is not None and _are_few(counted, held):
            return held
        return call_in_namespace(namespace, partial(_count_here, usage, ports))
    except OSError:
        return usage


def _with_bound(usage: PortUsage, sockets: Iterable[TcpSocket], ports: PortSet) -> tuple[PortUsage, set[int]]:
    """Return the usage with the ports that programs have bound, and these ports."""
    held = [(one.endpoints.local.port, one.state) for one in sockets if one.endpoints.local.port in ports]
    bound = {port for port, _ in held}
    listening = {port for port, state in held if state is TcpState.LISTEN}
    return replace(usage, bound=len(bound), listening=len(listening), ends=usage.ends - bound), bound


def _are_few(counted: TcpUsage, usage: PortUsage) -> bool:
    return counted.in_use + counted.time_wait + usage.bound < usage.least


def _count_here(usage: PortUsage, ports: PortSet) -> PortUsage:
    with SockDiag() as diag:
        usage, bound = _with_bound(usage, diag.dump((TcpState.BOUND_INACTIVE, TcpState.LISTEN)), ports)
        counted = usage_here()
        if counted is not None and _are_few(counted, usage):
            return usage
        chosen = set(ports)
        states: dict[tuple[int, bytes], Counter[int]] = {}
        by_source: dict[tuple[int, bytes], set[int]] = {}
        twice: Counter[tuple[int, bytes]] = Counter()
        at_end: Counter[tuple[int, bytes]] = Counter()
        for payload in diag.payloads(CONNECTION_STATES):
            port = payload[4] << 8 | payload[5]
            if port in chosen:
                by_source.setdefault((payload[0], bytes(payload[8:24])), set()).add(port)
                # struct inet_diag_sockid: dport and the two addresses follow the source port
                key = payload[0], bytes(payload[6:40])
                states.setdefault(key, Counter())[payload[1]] += 1
                twice[key] += port in bound
                at_end[key] += port in usage.ends
    merged = _merged(states, twice, at_end)
    full = [one for one in merged if usage.in_use(one) >= usage.least]
    most = max((one.used for one in merged), default=0)
    return replace(
        usage,
        distinct=len(bound.union(*by_source.values())),
        destinations=tuple(sorted(full, key=lambda one: -one.used)),
        most=most,
        tw_reuse=read_sysctl("tcp_tw_reuse") or "",
        sources=tuple(_sources(by_source, bound, merged, usage.least)),
    )


def _sources(
    ports: dict[tuple[int, bytes], set[int]], bound: set[int], to: list[Destination], least: float
) -> list[Source]:
    together: dict[str, set[int]] = {}
    for (family, raw), some in ports.items():
        size = 4 if family == socket.AF_INET else 16
        together.setdefault(canonical_host(socket.inet_ntop(family, raw[:size])), set(bound)).update(some)
    number = Counter(one.source for one in to)
    found = [Source(address, len(used), number[address]) for address, used in together.items() if len(used) >= least]
    return sorted((one for one in found if one.destinations > 1), key=lambda one: -one.used)


def _merged(
    states: dict[tuple[int, bytes], Counter[int]],
    twice: Counter[tuple[int, bytes]],
    at_end: Counter[tuple[int, bytes]],
) -> list[Destination]:
    """Add up IPv4 sockets and v4-mapped ones, which share source ports."""
    totals: dict[tuple[str, Endpoint], Counter[int]] = {}
    both: Counter[tuple[str, Endpoint]] = Counter()
    ends: Counter[tuple[str, Endpoint]] = Counter()
    for (family, raw), counts in states.items():
        size = 4 if family == socket.AF_INET else 16
        source, host = (canonical_host(socket.inet_ntop(family, raw[start : start + size])) for start in (2, 18))
        end = Endpoint(host, raw[0] << 8 | raw[1])
        totals.setdefault((source, end), Counter()).update(counts)
        both[source, end] += twice[family, raw]
        ends[source, end] += at_end[family, raw]
    return [
        Destination(*key, counts.total(), tuple(_ranked(counts)), both[key], ends[key])
        for key, counts in totals.items()
    ]


def _ranked(counts: Counter[int]) -> Iterator[tuple[TcpState, int]]:
    for state, number in counts.most_common():
        yield TcpState(state), number
