"""What the plan must know of a socket's network namespace, and how to know it for next to nothing.

Reading ``ip_local_port_range`` costs a fifth of a loopback connect, and both the value and the thread's
namespace may change at any time. So facts are kept per namespace, which the socket itself names
(SO_NETNS_COOKIE), and only for :data:`FRESH_FOR` seconds: a client that connects in a tight loop reads the file
once in hundreds of connects, one that connects once a second reads it every time and does not notice.
"""

from __future__ import annotations

import os
import sys
from time import monotonic
from typing import TYPE_CHECKING

from tailbite.core.plan import HostFacts, Plan, plan
from tailbite.kernel.sockopt import netns_cookie, supports_local_port_range
from tailbite.kernel.sysctl import read_ephemeral_range

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tailbite.core.ports import PortRange

__all__ = ["FRESH_FOR", "host_facts", "plan_for", "when_steered"]

FRESH_FOR = 0.01
"""Seconds for which a port range that was read is believed."""

when_steered: Callable[[], object] | None = None
"""Called when one of tailbite's own sockets was given a side of the port range, in the thread that connects it next.
``tailbite.guard()`` looks at every socket of the process, and has to know that this one's side is chosen already."""

_MOST_NAMESPACES = 64
_MOST_PLANS = 4096
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
    known = _look_up(sock)
    chosen = known.plans.get(port)
    if chosen is None:
        if len(known.plans) >= _MOST_PLANS:
            known.plans.clear()
        chosen = known.plans[port] = plan(port, 0, known.facts)
    return chosen


def host_facts(sock: socket.socket) -> HostFacts:
    """Return what is known of the socket's network namespace, at most :data:`FRESH_FOR` seconds old."""
    return _look_up(sock).facts


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
    facts = HostFacts(_ephemeral_range(), supports_local_port_range())
    if old is not None and old.facts == facts:
        old.until = monotonic() + FRESH_FOR
        return old
    if len(_known) >= _MOST_NAMESPACES:
        _known.clear()
    known = _known[name] = _Known(facts, monotonic() + FRESH_FOR)
    return known


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
