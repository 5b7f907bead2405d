"""Cached facts about a socket's network namespace that the plan depends on: port range and kernel support.

Reading ``ip_local_port_range`` costs a fifth of a loopback connect, and both the value and the thread's
namespace may change at any time. So facts are kept per namespace, which the socket itself names
(SO_NETNS_COOKIE), and only for :data:`FRESH_FOR` seconds: a client that connects in a tight loop reads the file
once in hundreds of connects, and one that connects once a second reads it every time, without noticing the cost. A
range that changes within that time breaks no promise, because the port of the connected socket is compared as well
(:meth:`tailbite.connect.attempt.Attempt.finish`).
"""

from __future__ import annotations

import socket
import sys
from time import monotonic
from typing import TYPE_CHECKING

from tailbite.core.plan import HostFacts, Plan, plan
from tailbite.kernel.socket_namespace import is_namespace_of_thread, namespace_of
from tailbite.kernel.sockopt import SO_NETNS_COOKIE, supports_local_port_range
from tailbite.kernel.sysctl import read_ephemeral_range

if TYPE_CHECKING:
    from tailbite.core.ports import PortRange

__all__ = ["FRESH_FOR", "ask_kernel", "host_facts", "plan_for"]

FRESH_FOR = 0.01
"""Seconds for which a port range that was read is used without reading it again. :mod:`tailbite.guards` uses the same
figure."""

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
    # The same as _look_up(), without the calls: every connect runs this.
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
    """Find out now whether this kernel has IP_LOCAL_PORT_RANGE, which takes a descriptor the first time."""
    _is_steerable()


def _is_steerable() -> bool:
    try:
        return supports_local_port_range()
    except OSError:  # no descriptor is left to find out
        return False


def _look_up(sock: socket.socket) -> _Known:
    name = namespace_of(sock) if _LINUX else None
    known = _known.get(name)
    if known is None or known.until < monotonic():
        known = _refresh(name, known)
    return known


def _refresh(name: bytes | None, old: _Known | None) -> _Known:
    # A range that cannot be read now is unknown, whatever it was: the plan for that needs no range.
    ephemeral = _ephemeral_range() if _LINUX and is_namespace_of_thread(name) else None
    facts = HostFacts(ephemeral, _is_steerable())
    if old is not None and old.facts == facts:
        old.until = monotonic() + FRESH_FOR
        return old
    if len(_known) >= _MOST_NAMESPACES:
        _known.clear()
    known = _known[name] = _Known(facts, monotonic() + FRESH_FOR)
    return known


def _ephemeral_range() -> PortRange | None:
    try:
        return read_ephemeral_range()
    except (OSError, ValueError):
        return None
