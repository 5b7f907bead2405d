"""Strategies of clients against self-connects; each strategy is one way to connect.

A strategy returns a connected socket, or None if it dropped a self-connect, and reports each self-connect that it
noticed. The experiment itself examines the returned socket: a strategy may return a self-connect without noticing.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unittest import mock

import tailbite
from tailbite.connect import attempt
from tailbite.core.plan import HostFacts, plan
from tailbite.core.ports import PortSet
from tailbite.guards.host import firewall as host_firewall
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import read_reserved_ports, write_reserved_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

__all__ = ["STRATEGIES", "STRATEGY_HOST", "Strategy", "is_to_itself"]

STRATEGY_HOST = "127.0.0.1"
_GO_REDIALS = 2


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to deal with self-connects.

    Attributes:
        name: name on the command line and in figures.
        text: description in a few words.
        dial: connect to a port of this host, and call the function for each self-connect noticed; raises OSError if
            the connect is refused.
        prepare: context manager that changes the network namespace for this strategy, given the port.
        prevents: True if the strategy prevents self-connects; False if it detects them afterwards, or not at all.
        is_tailbite: True if tailbite does this.
    """

    name: str
    text: str
    dial: Callable[[int, Callable[[], None]], socket.socket | None]
    prepare: Callable[[int], AbstractContextManager[None]] = lambda _: contextlib.nullcontext()
    prevents: bool = False
    is_tailbite: bool = False


def is_to_itself(sock: socket.socket) -> bool:
    """Return True if an IPv4 socket is connected to itself; False also for a socket that has lost its connection."""
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:
        return False


def _connect(port: int) -> socket.socket:
    return socket.create_connection((STRATEGY_HOST, port))


def _naive(port: int, noticed: Callable[[], None]) -> socket.socket:
    return _connect(port)


def _compare_and_close(port: int, noticed: Callable[[], None]) -> socket.socket | None:
    """Compare the endpoints after the connect, and close a self-connect."""
    sock = _connect(port)
    if not is_to_itself(sock):
        return sock
    noticed()
    sock.close()
    return None


def _reuse_and_close(port: int, noticed: Callable[[], None]) -> socket.socket | None:
    """Set SO_REUSEADDR as well: a server that sets it too may bind over the TIME-WAIT (inet_csk_bind_conflict)."""
    # As socket.create_connection, which cannot set an option before it connects.
    family, kind, protocol, _, address = socket.getaddrinfo(STRATEGY_HOST, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    if not is_to_itself(sock):
        return sock
    noticed()
    sock.close()
    return None


def _as_go(port: int, noticed: Callable[[], None]) -> socket.socket | None:
    """Connect as Go's net.Dial: close and redial at most twice, then accept any result (src/net/tcpsock_posix.go)."""
    sock = _connect(port)
    for _ in range(_GO_REDIALS):
        if not is_to_itself(sock):
            break
        noticed()
        sock.close()
        sock = _connect(port)
    return sock


def _abort(port: int, noticed: Callable[[], None]) -> socket.socket | None:
    sock = _connect(port)
    if not is_to_itself(sock):
        return sock
    noticed()
    abort(sock)
    return None


def _tailbite(port: int, noticed: Callable[[], None]) -> socket.socket:
    return tailbite.create_connection((STRATEGY_HOST, port))


def _tailbite_comparing(port: int, noticed: Callable[[], None]) -> socket.socket | None:
    try:
        return tailbite.create_connection((STRATEGY_HOST, port))
    except tailbite.SelfConnectError:
        noticed()
        return None


@contextlib.contextmanager
def _without_port_ranges(port: int) -> Iterator[None]:
    """Make tailbite plan as on a system without IP_LOCAL_PORT_RANGE: connect, compare at once, and reset."""
    with mock.patch.object(attempt, "plan_for", lambda sock, port: plan(port, 0, HostFacts(None, steerable=False))):
        yield


@contextlib.contextmanager
def _reserved(port: int) -> Iterator[None]:
    before = read_reserved_ports()
    write_reserved_ports(before | PortSet.of([port]))
    try:
        yield
    finally:
        write_reserved_ports(before)


@contextlib.contextmanager
def _guarded(port: int) -> Iterator[None]:
    firewall = host_firewall.find_firewall(4)
    for command in host_firewall.install_commands(host_firewall.read_state(firewall), firewall):
        host_firewall.run_firewall(command)
    try:
        yield
    finally:
        for command in host_firewall.remove_commands(host_firewall.read_state(firewall), firewall):
            host_firewall.run_firewall(command)


STRATEGIES: tuple[Strategy, ...] = (
    Strategy("naive", "connect, and accept any connection", _naive),
    Strategy("compare and close", "getsockname == getpeername? then close", _compare_and_close),
    Strategy("as Go", "close and redial, twice at most (net.Dial)", _as_go),
    Strategy("reuse and close", "the same, with SO_REUSEADDR on the client", _reuse_and_close),
    Strategy("abort", "compare, and reset (RST) a self-connect", _abort),
    Strategy(
        "port range",
        "tailbite: IP_LOCAL_PORT_RANGE without the port",
        _tailbite,
        prevents=True,
        is_tailbite=True,
    ),
    Strategy(
        "compare and reset",
        "tailbite without IP_LOCAL_PORT_RANGE: compare at once, and reset",
        _tailbite_comparing,
        _without_port_ranges,
        is_tailbite=True,
    ),
    Strategy(
        "reserved port", "ip_local_reserved_ports, any client", _naive, _reserved, prevents=True, is_tailbite=True
    ),
    Strategy(
        "host guard",
        "a firewall rule that refuses self-connects, any client",
        _naive,
        _guarded,
        prevents=True,
        is_tailbite=True,
    ),
)
