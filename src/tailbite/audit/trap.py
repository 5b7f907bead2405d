"""The trap: a namespace in which a client connects to itself as surely as the kernel can be made to.

The kernel has two source port allocators, with opposite preferences. connect(2) on an unbound socket takes ports
of the parity of the range's low end first (``__inet_hash_connect``, since Linux 4.2); bind(2) to port 0 takes the
other parity first (``inet_csk_find_open_port``). In a range of two ports each therefore has one port it always
takes first, and one trap cannot be set for both: with P at the low end a client that binds first passes for immune.

In every namespace a plain client is sent first. If that one does not connect to itself, the trap proves nothing.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tailbite.audit.records import Allocator, Phase
from tailbite.core.address import Endpoint, is_self
from tailbite.core.ports import PortRange
from tailbite.kernel.sockopt import abort

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tailbite.audit.records import Observation

__all__ = ["WIDE", "connects_to_itself", "control", "next_phase", "phase", "pin", "server_can_bind", "widen"]

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


def phase(host: str, allocator: Allocator, *, ports: int = 2) -> Phase:
    """Describe a trap on ``host`` for clients of ``allocator``, with a range of 2 or 16 ports.

    Raises:
        ValueError: another number of ports.
    """
    port = _LOW if allocator is Allocator.CONNECT else _LOW + 1
    if ports == 2:
        ephemeral = PortRange(_LOW, _LOW + 1)
    elif ports == 16:
        ephemeral = PortRange(_LOW - 6, _LOW + 9)
    else:
        raise ValueError(f"a trap has 2 or 16 ports, not {ports}")
    name = f"{allocator.value}-{host}" if ports == 2 else f"{allocator.value}-{host}-{ports}-ports"
    return Phase(name, host, port, ephemeral, allocator)


def next_phase(seen: Sequence[Observation], *, quick: bool = False, has_ipv6: bool = True) -> Phase | None:
    """Decide which trap a client is to be run in, after what was seen in the traps before; None ends the audit.

    A client that never dials 127.0.0.1 is not run there again. One that connected to itself is run on the other
    addresses with the allocator that did it; one that has not, with both. The range of 16 ports is for clients
    that dial more than once.
    """
    done = {observation.phase.name for observation in seen}
    return next((wanted for wanted in _wanted(seen, quick, has_ipv6) if wanted.name not in done), None)


def _wanted(seen: Sequence[Observation], quick: bool, has_ipv6: bool) -> Iterator[Phase]:
    by_name = {observation.phase.name: observation for observation in seen}

    def hit(wanted: Phase) -> bool:
        return wanted.name in by_name and bool(by_name[wanted.name].self_connects)

    connect, bind = (phase("127.0.0.1", allocator) for allocator in (Allocator.CONNECT, Allocator.BIND))
    yield connect
    dials_ipv4 = bool(by_name[connect.name].dials) if connect.name in by_name else True
    if quick:
        if dials_ipv4 and not hit(connect):
            yield bind
        return
    if dials_ipv4:
        yield bind
    allocators = tuple(wanted.allocator for wanted in (connect, bind) if hit(wanted))[:1] or tuple(Allocator)
    if dials_ipv4 and any(o.dials > 1 or o.exit_status is None for o in seen):
        yield phase("127.0.0.1", allocators[0], ports=16)
    if has_ipv6:
        for allocator in allocators:
            yield phase("::1", allocator)
            if not dials_ipv4 and not by_name[f"{allocator.value}-::1"].dials:
                return  # neither here nor there: it dials something else
    for allocator in allocators:
        yield phase("localhost", allocator)


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
    """Give the namespace the usual range, so that the TIME-WAITs of two ports do not exhaust it.

    Raises:
        OSError: not permitted.
    """
    (_NET / "ipv4/ip_local_port_range").write_text(f"{WIDE.low} {WIDE.high}", encoding="ascii")


def control(where: Phase) -> bool:
    """Send a plain client to each address of the phase: True if every one connected to itself. Leaves nothing."""
    # Two ports: the first draw. More are for what only the kernel knows of; sixteen ports need luck: eight of the
    # right parity, steps of one to eight of them, so a lap of eight dials at most hits with 1 - (7/8)^... after 400
    # draws to miss is less likely than a memory error.
    draws = 4 if where.is_certain else 400
    return all(
        any(connects_to_itself(host, where.port, where.allocator) for _ in range(draws)) for host in where.addresses
    )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def connects_to_itself(host: str, port: int, allocator: Allocator) -> bool:
    """Connect a plain socket once; return True if it connected to itself. The socket is reset and leaves nothing."""
    sock = socket.socket(_family(host))
    try:
        if allocator is Allocator.BIND:
            sock.bind((host, 0))
        sock.connect((host, port))
        return is_self(Endpoint.from_sockaddr(sock.getsockname()), Endpoint.from_sockaddr(sock.getpeername()))
    except OSError:
        return False
    finally:
        abort(sock)


def server_can_bind(host: str, port: int, *, reuse: bool) -> bool:
    """Tell whether a server could bind this address now, with or without SO_REUSEADDR; leaves nothing.

    A listening socket that is closed leaves nothing behind either, but clients may get into its queue meanwhile:
    so it is not made to listen.
    """
    with socket.socket(_family(host)) as sock:
        if reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return False
        return True
