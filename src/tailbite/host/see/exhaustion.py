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
    """

    source: str
    remote: Endpoint
    used: int
    states: tuple[tuple[TcpState, int], ...]


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
    usage = PortUsage(namespace, len(ports))
    try:
        if bound is None:
            return call_in_namespace(namespace, partial(_count_here, usage, ports))
        used = {one.endpoints.local.port for one in bound if one.endpoints.local.port in ports}
        counted = read_usage(namespace)
        if counted is not None and _are_few(counted, usage.available, len(used)):
            return replace(usage, bound=len(used))
        return call_in_namespace(namespace, partial(_count_here, usage, ports))
    except OSError:
        return usage


def _are_few(counted: TcpUsage, available: int, bound: int) -> bool:
    return counted.in_use + counted.time_wait + bound < FULL * available


def _count_here(usage: PortUsage, ports: PortSet) -> PortUsage:
    with SockDiag() as diag:
        listed = diag.dump((TcpState.BOUND_INACTIVE, TcpState.LISTEN))
        bound = {one.endpoints.local.port for one in listed if one.endpoints.local.port in ports}
        counted = usage_here()
        if counted is not None and _are_few(counted, usage.available, len(bound)):
            return replace(usage, bound=len(bound))
        chosen = set(ports)
        states: dict[tuple[int, bytes], Counter[int]] = {}
        by_source: dict[tuple[int, bytes], set[int]] = {}
        for payload in diag.payloads(CONNECTION_STATES):
            port = payload[4] << 8 | payload[5]
            if port in chosen:
                by_source.setdefault((payload[0], bytes(payload[8:24])), set()).add(port)
                # struct inet_diag_sockid: dport and the two addresses follow the source port
                states.setdefault((payload[0], bytes(payload[6:40])), Counter())[payload[1]] += 1
    merged = _merged(states)
    full = [one for one in merged if one.used + len(bound) >= FULL * usage.available]
    most = max((one.used for one in merged), default=0)
    ranked = tuple(sorted(full, key=lambda one: -one.used))
    reuse = read_sysctl("tcp_tw_reuse") or ""
    sources = tuple(_sources(by_source, bound, merged, FULL * usage.available))
    distinct = len(bound.union(*by_source.values()))
    return PortUsage(usage.namespace, usage.available, len(bound), distinct, ranked, most, reuse, sources)


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


def _merged(states: dict[tuple[int, bytes], Counter[int]]) -> list[Destination]:
    """Add up IPv4 sockets and v4-mapped ones, which share source ports."""
    totals: dict[tuple[str, Endpoint], Counter[int]] = {}
    for (family, raw), counts in states.items():
        size = 4 if family == socket.AF_INET else 16
        source, host = (canonical_host(socket.inet_ntop(family, raw[start : start + size])) for start in (2, 18))
        end = Endpoint(host, raw[0] << 8 | raw[1])
        totals.setdefault((source, end), Counter()).update(counts)
    return [
        Destination(source, end, counts.total(), tuple(_ranked(counts))) for (source, end), counts in totals.items()
    ]


def _ranked(counts: Counter[int]) -> Iterator[tuple[TcpState, int]]:
    for state, number in counts.most_common():
        yield TcpState(state), number
