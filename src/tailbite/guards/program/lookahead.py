"""The question whether the kernel can choose a port P as source port within the next connects.

Where it cannot, P need not be held, and a server on [::] can start meanwhile. The kernel chooses source ports in
turn, not at random (:mod:`tailbite.kernel.silent_draw`): after port D come ports above D, each at most 16 further,
and around the end of the range back to its low end. So P is out of reach if more ports lie between D and P than the
calls under way can pass::

    16 for each call, and for one more
    + every port in between that may be in use or reserved, because the kernel passes these in one step
    + 16 for each connect that other programs may make before this process can look again

The last term needs two figures: the connects of others per second (ActiveOpens in /proc/net/snmp, less our own), and
the longest time for which this process may not run. Under a CPU quota, or at a low priority on a busy machine, that
is much longer than the kernel's usual slices, and the supervisor sees it by its own delays. Until the connects of
others have been counted for a moment, nothing is out of reach.

Where P is near, this process has the kernel choose some ports, which moves the sequence past P. P is held only in
the cases that remain: a range of few ports, a host with thousands of sockets, a busy host that gives this process
little time, and a kernel that chooses at random (``ip_local_port_step_width``).
"""

from __future__ import annotations

import contextlib
import socket
import struct
from math import ceil
from time import monotonic
from typing import Final, NamedTuple

from tailbite.connect.facts import FRESH_FOR
from tailbite.kernel.silent_draw import draw_source_port
from tailbite.kernel.snmp import counted_since, read_tcp_opens
from tailbite.kernel.sockstat import read_tcp_usage
from tailbite.kernel.sysctl import read_ephemeral_range, read_reserved_ports, read_sysctl

__all__ = ["LocalDestination", "Lookahead", "ports_before", "reach_of"]

_LONGEST_STEP: Final = 16
"""get_random_u32_below(8) * 2 + 2, ``__inet_hash_connect`` in net/ipv4/inet_hashtables.c; 2 before Linux 5.18."""

_MOST_DRAWS: Final = 128
_SHORTEST_DELAY: Final = 0.05
_FIRST_DELAY: Final = 1.0
_HALF_LIFE: Final = 5.0
_WINDOW: Final = 0.05
_LONGEST_WINDOW: Final = 0.2
"""The connects counted in a longer time may all have been made at its end, so they count as if made in this time."""

_FASTEST: Final = 8
"""P is held while others move the sequence by more than an eighth of the range between two inspections."""

_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


class LocalDestination(NamedTuple):
    """An address that a connect within this host has at both ends.

    Attributes:
        family: AF_INET or AF_INET6.
        host: the numeric address.
        port: the port.
        scope: the interface's index, for a link-local address.
    """

    family: int
    host: str
    port: int
    scope: int = 0

    @classmethod
    def parse(cls, sockaddr: bytes) -> LocalDestination:
        """Read the 28 bytes of a ``struct sockaddr_in6``, or of a ``sockaddr_in`` and what follows it.

        A wildcard means the loopback address to connect(2), and a v4-mapped address is one of IPv4.
        """
        family, port = struct.unpack_from("=H", sockaddr)[0], int.from_bytes(sockaddr[2:4], "big")
        if family == socket.AF_INET6 and sockaddr[8:20] != _V4_MAPPED:
            address = sockaddr[8:24] if any(sockaddr[8:24]) else bytes(15) + b"\1"
            scope = struct.unpack_from("=I", sockaddr, 24)[0]
            return cls(socket.AF_INET6, socket.inet_ntop(socket.AF_INET6, address), port, scope)
        four = sockaddr[20:24] if family == socket.AF_INET6 else sockaddr[4:8]
        return cls(socket.AF_INET, socket.inet_ntop(socket.AF_INET, four if any(four) else b"\x7f\0\0\1"), port)


def ports_before(port: int, drawn: int, low: int, high: int) -> int:
    """Return how many ports the sequence of a range passes from ``drawn`` until it is at ``port``, once around."""
    span = high - low + 1
    return (port - drawn) % span or span


def reach_of(calls: float, in_use: int) -> int:
    """Return how many ports the sequence can move on while so many calls choose their source port.

    Args:
        calls: connects under way, and those that others may make meanwhile.
        in_use: the ports that may be in use or reserved; every second port is passed over anyway.
    """
    return _LONGEST_STEP * (ceil(calls) + 1) + 2 * in_use


class _Peak:
    """The largest of the latest values: it halves within a few seconds without another one."""

    def __init__(self, value: float = 0.0) -> None:
        self._value, self._since = value, monotonic()

    def at(self, now: float) -> float:
        return float(self._value * 0.5 ** ((now - self._since) / _HALF_LIFE))

    def add(self, value: float, now: float) -> None:
        self._value, self._since = max(value, self.at(now)), now


class Lookahead:
    """The positions of the kernel's sequences of source ports, in this process's network namespace."""

    def __init__(self) -> None:
        self._until = 0.0
        self._low = self._high = 0
        self._in_use = 0
        self._is_in_turn = self._has_counted = False
        self._last: dict[LocalDestination, int] = {}
        self._delay = _Peak(_FIRST_DELAY)
        self._others = _Peak()
        self._calls = self._not_begun = 0
        self._opens, self._counted = 0, 0.0
        with contextlib.suppress(OSError, ValueError):  # else it is tried again, and nothing is out of reach
            self._count_others(monotonic())

    def count_call(self) -> None:
        """Record a connect that this process lets continue, so that it is not mistaken for another program's."""
        self._calls += 1

    def add_delay(self, seconds: float) -> None:
        """Tell for how long this process was kept from running, or was busy."""
        self._delay.add(seconds, monotonic())

    def is_out_of_reach(self, destination: LocalDestination, calls: int) -> bool:
        """Tell whether no connect can get the destination's port as source port now; if it is near, move past it.

        Args:
            destination: the destination.
            calls: connects under way, this one included.
        """
        try:
            return self._is_out_of_reach(destination, calls)
        except (OSError, ValueError):
            return False

    def is_still_out_of_reach(self, destination: LocalDestination, calls: int) -> bool:
        """Tell the same of a call that is not over; False too if other connects move the sequence fast."""
        before = self._last.get(destination)
        if not self.is_out_of_reach(destination, calls) or before is None:
            return False
        moved = (self._last[destination] - before) % (self._high - self._low + 1)
        return moved * _FASTEST < self._high - self._low

    def _is_out_of_reach(self, destination: LocalDestination, calls: int) -> bool:
        now = monotonic()
        self._refresh(now)
        others = self._others.at(now) * max(_SHORTEST_DELAY, 4 * self._delay.at(now))
        reach = reach_of(calls + others, self._in_use)
        if not (self._is_in_turn and self._has_counted) or 2 * reach > self._high - self._low:
            return False
        for _ in range(_MOST_DRAWS if others < _MOST_DRAWS / 2 else 1):
            drawn = draw_source_port(*destination)
            if not self._low <= drawn <= self._high:
                return False  # the range has changed
            if ports_before(destination.port, drawn, self._low, self._high) > reach:
                self._last.pop(destination, None)
                self._last[destination] = drawn
                if len(self._last) > _MOST_DRAWS:
                    del self._last[next(iter(self._last))]
                return True
        return False

    def _refresh(self, now: float) -> None:
        """Read again what a step of the sequence depends on.

        Raises:
            OSError: it cannot be read.
            ValueError: it is not what every kernel writes.
        """
        if now < self._until:
            return
        self._count_others(now)
        ports, usage = read_ephemeral_range(), read_tcp_usage()
        reserved = sum(
            max(0, min(one.high, ports.high) - max(one.low, ports.low) + 1) for one in read_reserved_ports().ranges
        )
        self._low, self._high = ports.low, ports.high
        self._in_use = usage.sockets + usage.time_wait + reserved
        self._is_in_turn = (read_sysctl("ip_local_port_step_width") or "0") == "0"
        self._until = now + FRESH_FOR

    def _count_others(self, now: float) -> None:
        if now < self._counted + _WINDOW:
            return
        opens = read_tcp_opens().active
        if self._counted:
            others = counted_since(self._opens, opens) - self._calls
            window = min(now - self._counted, _LONGEST_WINDOW)
            self._others.add(max(0, others - self._not_begun) / window, now)
            self._not_begun = max(0, -others)  # the kernel counts these connects in the next window
            self._has_counted = True
        self._opens, self._counted, self._calls = opens, now, 0
