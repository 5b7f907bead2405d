"""The segments of one self-connect, captured beside those of an ordinary connection.

RFC 9293 describes simultaneous open between two peers (figure 8; RFC 793 figure 8): both send a SYN, both answer the
other's SYN with a SYN+ACK, both are ESTABLISHED. A self-connect is that figure folded along its middle: the two peers
are one socket, and each pair of crossing segments is one segment, which the socket sends and receives. So there is
one SYN and one SYN+ACK instead of two each, and the initial sequence number of the peer is the socket's own. The
SYN+ACK repeats a SYN that had already arrived, so an ACK answers it with a D-SACK block (RFC 2883).
"""

from __future__ import annotations

import socket
import time
from dataclasses import asdict, dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from tailbite.core.ports import PortRange
from tailbite.kernel.capture import Capture
from tailbite.kernel.namespace import fresh_network
from tailbite.kernel.packets import Packet, TcpFlags, TcpSegment
from tailbite.kernel.sock_diag import SockDiag, TcpState
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range
from tailbite.lab.record import NotARecord, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "ConnectionEnding",
    "NoSelfConnect",
    "Scene",
    "SegmentStep",
    "capture_scenes",
    "follow_connection",
    "follow_self_connect",
    "scenes_from_record",
    "scenes_to_record",
]

_HOST = "127.0.0.1"
_LINE = b"hello\n"
_MOST_SECONDS = 5.0
_QUIET = 0.06
"""Seconds of silence after which no more segments are expected: longer than the delayed ACK of loopback (40 ms)."""


class NoSelfConnect(RuntimeError):  # noqa: N818 - named like BlockingIOError
    """No self-connect happened although the trap was armed."""


class ConnectionEnding(Enum):
    """Way to end a connection."""

    CLOSE = "close()"
    RESET = "close() with SO_LINGER 1, 0"


@dataclass(frozen=True, slots=True)
class SegmentStep:
    """One segment and the states it belongs to.

    Attributes:
        sender: 0 for the connecting socket, 1 for the server's; always 0 in a self-connect.
        before: the sender's state when it sent the segment, RFC 9293 section 3.3.2.
        flags: the control bits, as SYN,ACK.
        sequence: relative to the initial sequence number of its sender.
        acknowledgment: relative to that of its receiver; None without ACK.
        length: bytes of data.
        duplicate: the D-SACK block, relative; None without one.
        after: the receiver's state after the segment arrived.
        milliseconds: time since the first segment.
    """

    sender: int
    before: str
    flags: str
    sequence: int
    acknowledgment: int | None
    length: int
    duplicate: tuple[int, int] | None
    after: str
    milliseconds: float

    @property
    def segment(self) -> str:
        """The segment as RFC 9293 writes it: <SEQ=0><ACK=1><CTL=SYN,ACK>."""
        acknowledgment = "" if self.acknowledgment is None else f"<ACK={self.acknowledgment}>"
        data = f"<DATA={self.length}>" if self.length else ""
        return f"<SEQ={self.sequence}>{acknowledgment}{data}<CTL={self.flags}>"


@dataclass(frozen=True, slots=True)
class Scene:
    """One connection from SYN to its end.

    Attributes:
        name: ``self-connect``, ``self-connect, reset``, or ``three-way handshake``.
        port: the destination port.
        ending: how the connection was ended.
        steps: its segments.
        left: state of the socket that the kernel keeps afterwards, by sock_diag; None without one.
    """

    name: str
    port: int
    ending: ConnectionEnding
    steps: tuple[SegmentStep, ...]
    left: str | None

    @property
    def is_folded(self) -> bool:
        """True if both ends are one socket."""
        return all(step.sender == 0 for step in self.steps)


def _flags(flags: TcpFlags) -> str:
    order = (TcpFlags.SYN, TcpFlags.FIN, TcpFlags.RST, TcpFlags.PSH, TcpFlags.ACK)
    return ",".join(flag.name or "" for flag in order if flag in flags)


def _relative(number: int, base: int) -> int:
    return (number - base) & 0xFFFFFFFF


# RFC 9293 figure 5: state -> arriving segment -> state, for the segments that occur on loopback. A SYN that arrives
# in SYN-SENT makes a simultaneous open; a FIN that arrives in FIN-WAIT-1 a simultaneous close.
_ARRIVALS: dict[str, Callable[[TcpFlags, bool], str | None]] = {
    "LISTEN": lambda flags, _: "SYN-RECEIVED" if TcpFlags.SYN in flags else None,
    "SYN-SENT": lambda flags, _: (
        ("ESTABLISHED" if TcpFlags.ACK in flags else "SYN-RECEIVED") if TcpFlags.SYN in flags else None
    ),
    "SYN-RECEIVED": lambda flags, _: "ESTABLISHED" if TcpFlags.ACK in flags else None,
    "ESTABLISHED": lambda flags, _: "CLOSE-WAIT" if TcpFlags.FIN in flags else None,
    "FIN-WAIT-1": lambda flags, acked: (
        ("TIME-WAIT" if acked else "CLOSING") if TcpFlags.FIN in flags else ("FIN-WAIT-2" if acked else None)
    ),
    "FIN-WAIT-2": lambda flags, _: "TIME-WAIT" if TcpFlags.FIN in flags else None,
    "CLOSING": lambda _, acked: "TIME-WAIT" if acked else None,
    "LAST-ACK": lambda _, acked: "CLOSED" if acked else None,
}


class _Peer:
    """The state of one TCP, derived from the segments that it sends and receives."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.start: int | None = None
        self._fin: int | None = None

    def send(self, segment: TcpSegment) -> str:
        """Return the state in which the segment is sent; for SYN and FIN the state that sending leads to."""
        if TcpFlags.SYN in segment.flags and TcpFlags.ACK not in segment.flags:
            self.state = "SYN-SENT"
        if TcpFlags.FIN in segment.flags:
            self.state = {"ESTABLISHED": "FIN-WAIT-1", "CLOSE-WAIT": "LAST-ACK"}.get(self.state, self.state)
            self._fin = segment.sequence + segment.payload_length
        if TcpFlags.SYN in segment.flags:
            self.start = segment.sequence
        if TcpFlags.RST in segment.flags:
            before, self.state = self.state, "CLOSED"
            return before
        return self.state

    def receive(self, segment: TcpSegment) -> str:
        """Return the state after the segment has arrived."""
        if TcpFlags.RST in segment.flags:
            self.state = "CLOSED"
        elif (arrive := _ARRIVALS.get(self.state)) is not None:
            acked = self._fin is not None and segment.acknowledgment == (self._fin + 1) & 0xFFFFFFFF
            self.state = arrive(segment.flags, acked) or self.state
        return self.state


def follow_self_connect(segments: Iterable[TcpSegment]) -> tuple[SegmentStep, ...]:
    """Return the steps of a self-connect: one socket is both sender and receiver."""
    return _follow(segments, _Peer("CLOSED"), None)


def follow_connection(segments: Iterable[TcpSegment], client_port: int) -> tuple[SegmentStep, ...]:
    """Return the steps of an ordinary connection between a client and a listening server."""
    return _follow(segments, _Peer("CLOSED"), _Peer("LISTEN"), client_port)


def _follow(
    segments: Iterable[TcpSegment], client: _Peer, server: _Peer | None, client_port: int | None = None
) -> tuple[SegmentStep, ...]:
    steps: list[SegmentStep] = []
    began: int | None = None
    for segment in segments:
        began = segment.timestamp_ns if began is None else began
        is_client = server is None or segment.source.port == client_port
        sender = client if is_client else server
        receiver = client if server is None else (server if is_client else client)
        assert sender is not None
        assert receiver is not None
        before = sender.send(segment)
        ours, theirs = sender.start or 0, receiver.start or 0
        duplicate = segment.duplicate_sack
        steps.append(
            SegmentStep(
                sender=0 if is_client else 1,
                before=before,
                flags=_flags(segment.flags),
                sequence=_relative(segment.sequence, ours),
                acknowledgment=_relative(segment.acknowledgment, theirs) if TcpFlags.ACK in segment.flags else None,
                length=segment.payload_length,
                duplicate=None
                if duplicate is None
                else (_relative(duplicate[0], theirs), _relative(duplicate[1], theirs)),
                after=receiver.receive(segment),
                milliseconds=round((segment.timestamp_ns - began) / 1e6, 3),
            )
        )
    return tuple(steps)


def scenes_to_record(scenes: list[Scene]) -> Record:
    """Return the record to store."""
    rows = [{**asdict(scene), "ending": scene.ending.name} for scene in scenes]
    return Record("handshake", {"port": scenes[0].port}, tuple(rows))


def scenes_from_record(record: Record) -> list[Scene]:
    """Return the scenes that :func:`scenes_to_record` stored.

    Raises:
        NotARecord: a field is missing or has an invalid value.
    """
    try:
        return [
            Scene(
                **{
                    **row,
                    "ending": ConnectionEnding[row["ending"]],
                    "steps": tuple(
                        SegmentStep(**{**step, "duplicate": step["duplicate"] and tuple(step["duplicate"])})
                        for step in row["steps"]
                    ),
                }
            )
            for row in record.rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise NotARecord(f"the record is damaged ({error})") from error


def capture_scenes(port: int) -> tuple[list[Scene], list[Packet]]:
    """Make a self-connect and close it, make another and reset it, and make an ordinary connection.

    Each is made in a network namespace of its own, for the first leaves a TIME-WAIT, which not every kernel can
    destroy: see :mod:`tailbite.kernel.end_socket`. The calling thread needs CAP_SYS_ADMIN, as every user has after
    :func:`~tailbite.kernel.namespace.enter_private_network`.

    Args:
        port: the destination port.

    Returns:
        The three scenes, and all their packets.

    Raises:
        NoSelfConnect: no self-connect happened although the trap was armed.
        NamespaceUnavailable: this system does not allow a network namespace.
        OSError: packets cannot be captured; ``strerror`` says so.
    """
    scenes, packets = [], []
    for make in (
        partial(_make_self_connect, "self-connect", ConnectionEnding.CLOSE),
        partial(_make_self_connect, "self-connect, reset", ConnectionEnding.RESET),
        _make_ordinary_connection,
    ):
        with fresh_network(), _open_capture() as capture:
            scene, captured = make(port, capture)
        scenes.append(scene)
        packets += captured
    return scenes, packets


def _open_capture() -> Capture:
    try:
        return Capture()
    except OSError as error:
        raise OSError(error.errno, f"packets cannot be captured here ({error.strerror})") from error


def _make_self_connect(
    name: str, ending: ConnectionEnding, port: int, capture: Capture
) -> tuple[Scene, list[Packet]]:
    write_ephemeral_range(PortRange(port, port + 1))  # connect() chooses the low end's parity: only port
    sock = _connected_to_itself(port, capture)
    _exchange_line(sock, sock)
    _end_connection(sock, ending)
    packets = _drain(capture)
    return Scene(name, port, ending, follow_self_connect(_segments_of(packets)), _remaining_state(port)), packets


def _make_ordinary_connection(port: int, capture: Capture) -> tuple[Scene, list[Packet]]:
    write_ephemeral_range(PortRange(port + 10, port + 60) if port < 65000 else PortRange(port - 60, port - 10))
    with socket.create_server((_HOST, port)) as listener:
        sock = socket.create_connection((_HOST, port))
        own = sock.getsockname()[1]
        accepted = listener.accept()[0]
        _exchange_line(sock, accepted)
        sock.close()
        time.sleep(_QUIET)
        accepted.close()
        packets = _drain(capture)
    steps = follow_connection(_segments_of(packets), own)
    return Scene("three-way handshake", port, ConnectionEnding.CLOSE, steps, _remaining_state(own)), packets


def _connected_to_itself(port: int, capture: Capture) -> socket.socket:
    for _ in range(8):
        capture.read()  # packets of attempts from the other port
        sock = socket.socket()
        if sock.connect_ex((_HOST, port)) == 0 and sock.getsockname() == sock.getpeername():
            return sock
        abort(sock)
    raise NoSelfConnect(f"no self-connect on port {port} although the trap is armed")


def _exchange_line(sender: socket.socket, receiver: socket.socket) -> None:
    time.sleep(_QUIET)
    sender.sendall(_LINE)
    receiver.settimeout(_MOST_SECONDS)
    got = b""
    while len(got) < len(_LINE):
        got += receiver.recv(len(_LINE) - len(got)) or b"?" * len(_LINE)
    time.sleep(_QUIET)


def _end_connection(sock: socket.socket, ending: ConnectionEnding) -> None:
    if ending is ConnectionEnding.RESET:
        abort(sock)
    else:
        sock.close()


def _drain(capture: Capture) -> list[Packet]:
    """Return the packets that arrive until there is silence."""
    packets: list[Packet] = []
    deadline = time.monotonic() + _MOST_SECONDS
    while time.monotonic() < deadline and (more := capture.read(_QUIET)):
        packets += more
    return packets


def _segments_of(packets: list[Packet]) -> list[TcpSegment]:
    return [segment for packet in packets if (segment := packet.segment()) is not None]


def _remaining_state(port: int) -> str | None:
    """Return the state of the socket that the kernel keeps on a port, other than a listener; None without one."""
    with SockDiag() as diag:
        left = [
            each for each in diag.dump() if each.endpoints.local.port == port and each.state is not TcpState.LISTEN
        ]
    return left[0].state.label if left else None
