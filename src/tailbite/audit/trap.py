"""The trap: a namespace in which a client connects to itself as surely as the kernel can be made to.

The kernel has two source port allocators, with opposite preferences. connect(2) on an unbound socket takes ports
of the parity of the range's low end first (``__inet_hash_connect``, since Linux 4.2); bind(2) to port 0 takes the
other parity first (``inet_csk_find_open_port``). In a range of two ports each therefore has one port it always
takes first, and one trap cannot be armed for both: with P at the low end a client that binds first passes for immune.

A client that binds a port for something else first leaves no port in a range of two. For such a client the range is
sixteen ports wide, and the audit itself holds the others of P's parity: P is still the connect allocator's first
choice, and eight ports are left for whatever else the client does.

In every namespace a plain client is sent first. If that one does not connect to itself, the trap proves nothing.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tailbite.audit.records import Allocator, Phase
from tailbite.core.ports import PortRange
from tailbite.testkit.plain_client import connects_to_itself, family_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tailbite.audit.records import Observation

__all__ = ["WIDE", "control", "has_ipv6", "next_phase", "occupy", "phase", "pin", "server_can_bind", "widen"]

_LOW: Final = 46884
"""Even, and far from the ends of the default range 32768-60999, so that the widened range has P in it as well."""

WIDE: Final = PortRange(32768, 60999)

_NET: Final = Path("/proc/sys/net")

_PINNED: Final = {
    # What a new namespace would otherwise inherit from its host (Documentation/networking/ip-sysctl.rst).
    "ipv4/ip_local_reserved_ports": "\n",
    "ipv4/tcp_tw_reuse": "2",
    "ipv4/tcp_fin_timeout": "60",
    "ipv4/tcp_timestamps": "1",
    "ipv4/tcp_sack": "1",
    "ipv4/tcp_dsack": "1",
    "ipv4/tcp_rfc1337": "0",
    "ipv4/tcp_max_tw_buckets": "65536",
    "ipv4/tcp_syn_retries": "6",
    "ipv4/tcp_abort_on_overflow": "0",
    "ipv4/ip_nonlocal_bind": "0",
    "ipv6/bindv6only": "0",
    "ipv6/conf/all/disable_ipv6": "0",
    "ipv6/conf/lo/disable_ipv6": "0",
}


def phase(host: str, allocator: Allocator, *, ports: int = 2, occupied: bool = False) -> Phase:
    """Describe a trap on ``host`` for clients of ``allocator``, with a range of 2 or 16 ports.

    Args:
        host: the address.
        allocator: the kernel's allocator that the clients use.
        ports: the size of the range.
        occupied: True to hold the other ports of P's parity, so that a range of 16 is certain, too.

    Raises:
        ValueError: another number of ports; or 2 ports with occupied=True.
    """
    port = _LOW if allocator is Allocator.CONNECT else _LOW + 1
    name = f"{allocator.value}-{host}"
    if ports == 2 and not occupied:
        return Phase(name, host, port, PortRange(_LOW, _LOW + 1), allocator)
    if ports != 16:
        raise ValueError(f"a trap has 2 ports, or 16 of which some may be occupied, not {ports}")
    if not occupied:
        return Phase(f"{name}-16-ports", host, port, PortRange(_LOW - 6, _LOW + 9), allocator)
    # P lies in the upper half: bind(2) to port 0 with SO_REUSEADDR, as listeners have it, uses up the lower half of
    # the range, both parities, before it takes a port of the upper one (inet_csk_find_open_port, attempt_half).
    ephemeral = PortRange(_LOW - 10, _LOW + 5)
    held = tuple(other for other in range(ephemeral.low + port % 2, ephemeral.high + 1, 2) if other != port)
    return Phase(f"{name}-wide", host, port, ephemeral, allocator, held)


def next_phase(seen: Sequence[Observation], *, quick: bool = False, has_ipv6: bool = True) -> Phase | None:
    """Decide in which trap to run a client next, after the observations so far; None ends the audit.

    A client that does not dial 127.0.0.1 in the narrow trap may lack a port for something else: unless it sits
    there without a socket of its own, it gets the wide trap. One that never dials 127.0.0.1 is not run there
    again. One that connected to itself is run on the other addresses with the allocator that did it; one that has
    not, with both. The range of 16 ports that are all free is for clients that dial more than once.
    """
    done = {observation.phase.name for observation in seen}
    return next((coming for coming in _phases_for(seen, quick, has_ipv6) if coming.name not in done), None)


def _phases_for(seen: Sequence[Observation], quick: bool, has_ipv6: bool) -> Iterator[Phase]:
    by_name = {observation.phase.name: observation for observation in seen}
    connect, bind = (phase("127.0.0.1", allocator) for allocator in (Allocator.CONNECT, Allocator.BIND))
    yield connect
    if (first := by_name.get(connect.name)) is None:
        return
    needs_more = not first.dials and (first.crowded or first.exit_status is not None)
    if needs_more:
        connect = phase("127.0.0.1", Allocator.CONNECT, ports=16, occupied=True)
        yield connect
        first = by_name[connect.name]
    if first.dials:
        yield bind
        if bind.name in by_name and by_name[bind.name].served:
            yield phase("127.0.0.1", Allocator.BIND, ports=16)
    if not quick:
        yield from _elsewhere(seen, needs_more=needs_more, dials_ipv4=bool(first.dials), has_ipv6=has_ipv6)


def _elsewhere(seen: Sequence[Observation], *, needs_more: bool, dials_ipv4: bool, has_ipv6: bool) -> Iterator[Phase]:
    """Yield the phases beside those that decide on 127.0.0.1: sixteen ports, ::1, localhost."""
    by_name = {observation.phase.name: observation for observation in seen}
    hit = {o.phase.allocator for o in seen if o.self_connects and o.phase.host == "127.0.0.1"}
    allocators = tuple(allocator for allocator in Allocator if allocator in hit)[:1] or tuple(Allocator)

    def trap_on(host: str, allocator: Allocator) -> Phase:
        wide = needs_more and dials_ipv4 and allocator is Allocator.CONNECT
        return phase(host, allocator, ports=16, occupied=True) if wide else phase(host, allocator)

    if dials_ipv4 and any(o.dials > 1 or o.exit_status is None for o in seen):
        yield phase("127.0.0.1", allocators[0], ports=16)
    if not has_ipv6:
        return  # localhost is 127.0.0.1 alone, and that has been tried
    for allocator in allocators:
        yield (wanted := trap_on("::1", allocator))
        if not dials_ipv4 and not by_name[wanted.name].dials:
            return  # neither here nor there: it dials something else
    for allocator in allocators:
        yield trap_on("localhost", allocator)


def pin(where: Phase) -> dict[str, str]:
    """Set the calling thread's namespace to known values and to the phase's range; return what holds now.

    Sysctls that this kernel does not have are left out.

    Raises:
        OSError: not permitted: the namespace is not ours.
    """
    values: dict[str, str] = {}
    for name, value in {
        **_PINNED,
        "ipv4/ip_local_port_range": f"{where.ephemeral.low} {where.ephemeral.high}",
    }.items():
        file = _NET / name
        try:
            file.write_text(value, encoding="ascii")
            values[f"net.{name.replace('/', '.')}"] = " ".join(file.read_text(encoding="ascii").split())
        except FileNotFoundError:
            continue
    return values


def widen() -> None:
    """Set the namespace's range to Linux' default, so that the TIME-WAITs of two ports do not exhaust it.

    Raises:
        OSError: not permitted.
    """
    (_NET / "ipv4/ip_local_port_range").write_text(f"{WIDE.low} {WIDE.high}", encoding="ascii")


def has_ipv6() -> bool:
    """Tell whether sockets can be IPv6 here: the kernel can be without it, and a sandbox can forbid it."""
    try:
        socket.socket(socket.AF_INET6).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def occupy(where: Phase) -> Iterator[None]:
    """Hold the phase's occupied ports, on every address; bound and not listening, so that no client meets them.

    Raises:
        OSError: a port is in use.
    """
    with contextlib.ExitStack() as stack:
        for port in where.occupied:
            stack.enter_context(_hold_everywhere(port))
        yield


def _hold_everywhere(port: int) -> socket.socket:
    """Bind a port on every address.

    Raises:
        OSError: it is in use.
    """
    holder = socket.socket(socket.AF_INET6 if has_ipv6() else socket.AF_INET)
    try:
        holder.bind(("::" if holder.family == socket.AF_INET6 else "0.0.0.0", port))
    except OSError:
        holder.close()
        raise
    return holder


def control(where: Phase) -> bool:
    """Send a plain client to each address of the phase: True if every one connected to itself. Leaves nothing."""
    # A certain trap needs one connect, and up to three more for the kernel's random perturbation. In a free range of
    # 16 ports each connect hits P with a probability of at least 1/8, so 400 misses in a row are out of the question:
    # (7/8)^400 is about 1e-23 if the source ports were independent, and they nearly are.
    attempts = 4 if where.is_certain else 400
    binds_first = where.allocator is Allocator.BIND
    return all(
        connects_to_itself(host, where.port, binds_first=binds_first, attempts=attempts) for host in where.addresses
    )


def server_can_bind(host: str, port: int, *, reuse: bool) -> bool:
    """Tell whether a server could bind this address now, with or without SO_REUSEADDR; leaves nothing.

    The socket is only bound. One that listens would leave nothing behind either, but a client could get into its
    queue meanwhile.
    """
    with socket.socket(family_of(host)) as sock:
        if reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        return True
