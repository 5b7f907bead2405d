"""Cached facts about a socket's network namespace that the plan depends on: port range and kernel support.

Reading ``ip_local_port_range`` costs a fifth of a loopback connect, and both the value and the thread's
namespace may change at any time. So facts are kept per namespace, which the socket itself names
(SO_NETNS_COOKIE), and only for :data:`FRESH_FOR` seconds: a client that connects in a tight loop reads the file
once in hundreds of connects, and one that connects once a second reads it every time, without noticing the cost. A
range that changes within that time breaks no promise, because the port of the connected socket is compared as well
(:meth:`tailbite.connect.attempt.Attempt.finish`).
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
import socket
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any

from tailbite.core.plan import HostFacts, Plan, plan
from tailbite.kernel.sockopt import SO_NETNS_COOKIE, netns_cookie, supports_local_port_range
from tailbite.kernel.sysctl import read_ephemeral_range

if TYPE_CHECKING:
    from tailbite.core.ports import PortRange

__all__ = ["FRESH_FOR", "ask_kernel", "host_facts", "plan_for"]

FRESH_FOR = 0.01
"""Seconds for which a port range that was read is believed. :mod:`tailbite.guards` uses the same figure."""

_MOST_NAMESPACES = 64
_MOST_PLANS = 4096
_SOL_SOCKET = int(socket.SOL_SOCKET)
_LINUX = sys.platform.startswith("linux")


class _Known:
    """The facts of one namespace, and the plans made from them, per destination port."""

    __slots__ = ("facts", "plans", "until")

    def __init__(self, facts: HostFacts, until: float) -> None:
        self.facts = facts
        self.until = until
        self.plans: dict[int, Plan] = {}


_known: dict[bytes | None, _Known] = {}


def plan_for(sock: socket.socket, port: int) -> Plan:
    """Return the plan for an unbound socket that will be connected to ``port``."""
    # As in _look_up(), without the calls: this is a part of every connect.
    try:
        known = _known.get(sock.getsockopt(_SOL_SOCKET, SO_NETNS_COOKIE, 8))
    except OSError:
        known = None
    if known is None or known.until < monotonic():
        known = _look_up(sock)
    chosen = known.plans.get(port)
    if chosen is None:
        if len(known.plans) >= _MOST_PLANS:
            known.plans.clear()
        chosen = known.plans[port] = plan(port, 0, known.facts)
    return chosen


def host_facts(sock: socket.socket) -> HostFacts:
    """Return the facts about the socket's network namespace, at most :data:`FRESH_FOR` seconds old."""
    return _look_up(sock).facts


def ask_kernel() -> None:
    """Find out now what takes a descriptor: whether this kernel has IP_LOCAL_PORT_RANGE, and the ephemeral range."""
    supports_local_port_range()
    with contextlib.suppress(OSError):
        here: Any = _socket.socket()
        with contextlib.closing(here):
            _look_up(here)


def _look_up(sock: socket.socket) -> _Known:
    name: bytes | None
    try:
        name = netns_cookie(sock)
    except OSError:
        name = _namespace_of_thread()
    known = _known.get(name)
    if known is None or known.until < monotonic():
        known = _refresh(name, known)
    return known


def _refresh(name: bytes | None, old: _Known | None) -> _Known:
    ephemeral = _ephemeral_range() if _is_of_thread(name) else None
    if ephemeral is None and old is not None:
        ephemeral = old.facts.ephemeral  # without a descriptor to read it, the last known range is the best one
    facts = HostFacts(ephemeral, supports_local_port_range())
    if old is not None and old.facts == facts:
        old.until = monotonic() + FRESH_FOR
        return old
    if len(_known) >= _MOST_NAMESPACES:
        _known.clear()
    known = _known[name] = _Known(facts, monotonic() + FRESH_FOR)
    return known


def _is_of_thread(name: bytes | None) -> bool:
    """Tell whether the calling thread is in that namespace, whose files it would read.

    A socket stays in the namespace in which it was made, and the thread that connects it may be in another one. A
    second socket shows the thread's; without a descriptor left for it, the answer is no.
    """
    if not _LINUX:
        return True
    try:
        here: Any = _socket.socket()
        with contextlib.closing(here):
            return netns_cookie(here) == name
    except OSError as error:
        return error.errno == errno.ENOPROTOOPT  # no cookies here, so the name is the thread's namespace


def _ephemeral_range() -> PortRange | None:
    # Elsewhere than on Linux there is no file to read: the range stays unknown, and the plan needs none.
    if not _LINUX:
        return None
    try:
        return read_ephemeral_range()
    except (OSError, ValueError):
        return None


def _namespace_of_thread() -> bytes | None:
    """Name the namespace of a socket on a Linux before 5.14: the calling thread's, in which it was just made."""
    if not _LINUX:
        return None
    try:
        return os.stat("/proc/thread-self/ns/net").st_ino.to_bytes(8, "little")  # noqa: PTH116 - 5 us cheaper
    except OSError:
        return None
