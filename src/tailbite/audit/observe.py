"""Recording of a namespace from the kernel's side: packets, socket states, counters. A client cannot notice it.

The packets are the complete record: a self-connect that lasts a millisecond is three segments like any other, and
polling would miss it. Socket states make the timeline, and show what is left at the end. The counters of
``/proc/net/snmp`` are the cross-check.
"""

from __future__ import annotations

import bisect
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tailbite.audit.records import ConnectionToItself, Ending, StateSpan
from tailbite.kernel.capture import Capture
from tailbite.kernel.packets import Packet, TcpFlags, TcpSegment
from tailbite.kernel.sock_diag import SockDiag, TcpSocket

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tailbite.core.ports import PortRange

__all__ = ["Recorder", "SelfConnects", "Timeline", "cut", "read_counters"]

_MOST_PACKETS = 50_000
_MOST_AT_ONCE = 500
"""Packets to take before the sockets are inspected: a client that flaps sends them as fast as they are read."""

_ROUND = 0.25
"""Seconds: dials that lie closer together are one round of dials, such as the addresses of one name."""

_MOST_DIALS = 1_000
_MOST_ECHO = 65_536


class SelfConnects:
    """Fold segments into self-connects. Pure: the segments carry their times.

    All self-connects on one address and port have the same four-tuple, so there is one at a time: a SYN begins it,
    the SYN+ACK with the same sequence number establishes it (RFC 9293 section 3.5, figure 7), FIN or RST ends it.

    Args:
        port: the dead port.
        start_ns: nanoseconds since 1970 that count as 0 s.
    """

    def __init__(self, port: int, start_ns: int = 0) -> None:
        self._port = port
        self._start_ns = start_ns
        self._opening: dict[str, int] = {}
        self._found: list[ConnectionToItself] = []
        self._current: dict[str, tuple[int, int]] = {}  # host -> index in _found, initial sequence number
        self.dials = 0
        self.dialled: list[float] = []
        self.last_dial: float | None = None
        self.rounds = 0
        self._round_began = float("-inf")
        self.answered: float | None = None
        """The time at which a listener on the port last took a dial: its SYN+ACK makes the client ESTABLISHED."""
        self.written = bytearray()
        """The bytes that were sent to itself, the first 64 KiB."""

    def feed(self, segment: TcpSegment) -> None:
        """Take the next segment."""
        at = (segment.timestamp_ns - self._start_ns) / 1e9
        flags = segment.flags
        if segment.source.port == self._port and TcpFlags.SYN | TcpFlags.ACK in flags and not segment.is_to_itself:
            self.answered = at
        if segment.destination.port != self._port:
            return
        if TcpFlags.SYN in flags and TcpFlags.ACK not in flags:
            self.dials += 1
            self.last_dial = at if self.last_dial is None else max(at, self.last_dial)
            if at >= self._round_began + _ROUND:
                self._round_began = at
                self.rounds += 1
            if len(self.dialled) < _MOST_DIALS:
                bisect.insort(self.dialled, at)
        if segment.is_to_itself:
            self._feed_own(segment, at, flags)

    def _feed_own(self, segment: TcpSegment, at: float, flags: TcpFlags) -> None:
        host = segment.source.host
        if TcpFlags.RST in flags:
            self._opening.pop(host, None)
            self._end(host, at, Ending.RESET)
        elif TcpFlags.SYN in flags and TcpFlags.ACK not in flags:
            # The same four-tuple begins again, so the connection before is gone, whether its end was seen or lost.
            # It left no TIME-WAIT: the kernel would not have used that one again for a second.
            self._end(host, at, Ending.RESET, only_if_open=True)
            self._opening[host] = segment.sequence
            self._current.pop(host, None)
        elif TcpFlags.SYN in flags:
            if self._opening.get(host) == segment.sequence:
                del self._opening[host]
                self._current[host] = (len(self._found), segment.sequence)
                self._found.append(ConnectionToItself(at, None, Ending.OPEN, host, 0))
        elif host in self._current:
            index, initial = self._current[host]
            now = self._found[index]
            sent = (segment.sequence + segment.payload_length - initial - 1) & 0xFFFFFFFF
            # Keepalive probes and retransmissions repeat what was counted.
            if segment.payload_length and now.sent < sent < 1 << 31:
                self._found[index] = ConnectionToItself(now.start, now.end, now.ending, host, sent)
                self.written += segment.payload[: _MOST_ECHO - len(self.written)]
            if TcpFlags.FIN in flags:
                self._end(host, at, Ending.CLOSED)

    def _end(self, host: str, at: float, ending: Ending, *, only_if_open: bool = False) -> None:
        if host not in self._current:
            return
        index, _ = self._current[host]
        now = self._found[index]
        if only_if_open and now.ending is not Ending.OPEN:
            return
        # RST after FIN takes the TIME-WAIT away again (RFC 1337 calls it assassination).
        if now.ending is Ending.OPEN:
            self._found[index] = ConnectionToItself(now.start, at, ending, host, now.sent)
        elif ending is Ending.RESET:
            self._found[index] = ConnectionToItself(now.start, now.end, ending, host, now.sent)

    @property
    def established(self) -> tuple[ConnectionToItself, ...]:
        """The self-connects that were established, the oldest first."""
        return tuple(self._found)

    @property
    def open_since(self) -> float | None:
        """The time at which the oldest open self-connect began; None if none is open."""
        return min((found.start for found in self._found if found.ending is Ending.OPEN), default=None)

    @property
    def last_end(self) -> float | None:
        """The time at which a self-connect last ended; None if none did."""
        return max((found.end for found in self._found if found.end is not None), default=None)


def cut(
    found: Iterable[ConnectionToItself], at: float, *, polled: float, held: bool, time_wait: bool
) -> tuple[ConnectionToItself, ...]:
    """Return the self-connects as they were at a time: what ended later was open. Pure.

    Args:
        found: the self-connects, from the packets.
        at: the time at which the audit ended the client, so that later ends are the audit's doing.
        polled: the time of the last poll of the sockets.
        held: True if that poll showed a self-connected socket.
        time_wait: True if it showed one in TIME-WAIT. Where neither was there, an end is among lost packets.
    """
    return tuple(_cut_one(hit, at, held or hit.start >= polled, time_wait) for hit in found)


def _cut_one(hit: ConnectionToItself, at: float, held: bool, time_wait: bool) -> ConnectionToItself:
    if hit.end is not None and hit.end <= at:
        return hit
    if held:
        return ConnectionToItself(hit.start, None, Ending.OPEN, hit.host, hit.sent)
    return ConnectionToItself(hit.start, at, Ending.CLOSED if time_wait else Ending.RESET, hit.host, hit.sent)


class Timeline:
    """Fold polls of the socket list into spans of states. Pure: the time of each poll is passed in."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._running: dict[str, float] = {}
        self._spans: list[StateSpan] = []

    def feed(self, at: float, sockets: Iterable[TcpSocket]) -> None:
        """Take the sockets that a poll at this time showed."""
        now = {_label(found) for found in sockets if found.endpoints.local.port == self._port}
        for gone in self._running.keys() - now:
            self._spans.append(StateSpan(gone, self._running.pop(gone), at))
        for label in now:
            self._running.setdefault(label, at)

    def spans(self, until: float) -> tuple[StateSpan, ...]:
        """Return all spans; those that still run end ``until``."""
        running = [StateSpan(label, start, until) for label, start in self._running.items()]
        return tuple(sorted([*self._spans, *running], key=lambda span: (span.start, span.state)))


def _label(found: TcpSocket) -> str:
    return f"{found.state.label} to itself" if found.is_self_connected else found.state.label


class Recorder:
    """Records the calling thread's namespace, from now on. A context manager.

    Args:
        port: the dead port.
        ephemeral: the namespace's ephemeral range.

    Raises:
        OSError: no packet socket or no sock_diag here.
    """

    def __init__(self, port: int, ephemeral: PortRange | None = None) -> None:
        self._port = port
        self._ephemeral = ephemeral
        self._diag = SockDiag()
        # Two captures: one that dials as fast as it can fills the first, and must not push out what the second sees.
        try:
            self._capture = Capture(snap_length=2048)
            try:
                self._own = Capture(snap_length=2048, same_ports=True)
            except BaseException:
                self._capture.close()
                raise
        except BaseException:
            self._diag.__exit__()
            raise
        self._start_ns = time.time_ns()
        self._counters = read_counters()
        self._known_before = self._others()
        self.self_connects = SelfConnects(port, self._start_ns)
        self.timeline = Timeline(port)
        self.packets: list[Packet] = []
        self._has_more = False
        self.known_until = 0.0
        """The time up to which the packets are known: now, unless they come as fast as they are read."""
        self.crowded_since: float | None = None
        """The time at which another socket of the range was first seen; None if no such socket was seen."""

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.close()
        self._own.close()
        self._diag.__exit__()

    def fileno(self) -> int:
        """Return a descriptor that is readable when there are packets."""
        return self._capture.fileno()

    @property
    def now(self) -> float:
        """Seconds since the recording began; the clock is the packets' own."""
        return (time.time_ns() - self._start_ns) / 1e9

    @property
    def lost(self) -> int:
        """Packets that the capture dropped, of those that may be a self-connect."""
        return self._own.lost

    def read_packets(self) -> None:
        """Take new packets; not all if they come as fast as they are read."""
        for packet in self._capture.read(most=_MOST_AT_ONCE):
            if len(self.packets) < _MOST_PACKETS:
                self.packets.append(packet)
            segment = _decoded(packet)
            if segment is not None and not segment.is_to_itself:
                self.self_connects.feed(segment)
        before = self.now
        own = self._own.read(most=_MOST_AT_ONCE)
        for packet in own:
            segment = _decoded(packet)
            if segment is not None and segment.is_to_itself:
                self.self_connects.feed(segment)
        self._has_more = len(own) >= _MOST_AT_ONCE
        self.known_until = (own[-1].timestamp_ns - self._start_ns) / 1e9 if self._has_more else before

    def read_all_packets(self) -> None:
        """Take every packet that is left; the client must have ended."""
        self.read_packets()
        while self._has_more:
            self.read_packets()

    def poll(self) -> list[TcpSocket]:
        """Take the new packets and one poll of the sockets; return those on the port."""
        self.read_packets()
        every = list(self._diag.dump())
        sockets = [found for found in every if found.endpoints.local.port == self._port]
        self.timeline.feed(self.now, sockets)
        others = {_name(found) for found in every if self._is_other(found)} - self._known_before
        if others and self.crowded_since is None:
            self.crowded_since = self.now
        return sockets

    def _others(self) -> set[tuple[str, int]]:
        return {_name(found) for found in self._diag.dump() if self._is_other(found)}

    def _is_other(self, found: TcpSocket) -> bool:
        in_range = self._ephemeral is not None and found.endpoints.local.port in self._ephemeral
        return in_range and not found.is_self_connected

    def counted(self) -> int | None:
        """Return the self-connects since the recording began by the counters: see :func:`read_counters`."""
        now = read_counters()
        if now is None or self._counters is None:
            return None
        return now - self._counters


def _name(found: TcpSocket) -> tuple[str, int]:
    return found.state.label, found.endpoints.local.port


def _decoded(packet: Packet) -> TcpSegment | None:
    try:
        return packet.segment()
    except ValueError:
        return None  # a raw socket of the client's may send anything


def read_counters() -> int | None:
    """Return ActiveOpens - AttemptFails - PassiveOpens of the thread's namespace (RFC 4022), or None.

    Connections that began with connect(2) and were established, without those that a listener of the same
    namespace took: on a ``lo`` of its own, that leaves connections to itself.
    """
    try:
        lines = Path("/proc/thread-self/net/snmp").read_text(encoding="ascii").splitlines()
        names, numbers = (line.split()[1:] for line in lines if line.startswith("Tcp:"))
        values = dict(zip(names, map(int, numbers), strict=True))
        return values["ActiveOpens"] - values["AttemptFails"] - values["PassiveOpens"]
    except (OSError, ValueError, KeyError):
        return None
