"""The traffic of one connection as the kernel counts it: ``struct tcp_info`` (linux/tcp.h, tcp(7))."""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = ["TcpInfo", "decode"]

_TIMES = struct.Struct("=I4xI")  # tcpi_last_data_sent, tcpi_last_ack_sent (never set), tcpi_last_data_recv
_TIMES_OFFSET = 44
_BYTES = struct.Struct("=QQ")  # tcpi_bytes_acked, tcpi_bytes_received: Linux 4.1
_BYTES_OFFSET = 120
_SENT = struct.Struct("=QQ")  # tcpi_bytes_sent, tcpi_bytes_retrans: Linux 4.19
_SENT_OFFSET = 200
_UNACKED = struct.Struct("=I")  # tcpi_unacked
_UNACKED_OFFSET = 24
_OPENING = (2, 3)  # tcpi_state: SYN-SENT, SYN-RECV; their times count from the boot
_FIN_ACKED = {1: 0, 8: 0, 5: 1}  # by tcpi_state: ESTABLISHED, CLOSE-WAIT, FIN-WAIT-2


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """The part of ``struct tcp_info`` about data sent and received.

    Attributes:
        idle_ms: milliseconds since it last sent or received data, or since it was made if it never did; 0 while it is
            being made, when the kernel has no such times yet.
        bytes_sent: bytes it sent and got acknowledged (tcpi_bytes_acked); None before Linux 4.1. A self-connect's own
            SYN counts as one.
        bytes_received: bytes it received (tcpi_bytes_received); None before Linux 4.1. On a self-connect these are
            its own bytes, echoed.
        has_dialled: True for the end that called connect(2), False for the one that was accepted; None if the
            counters do not tell (:func:`_has_dialled`).
    """

    idle_ms: int
    bytes_sent: int | None
    bytes_received: int | None
    has_dialled: bool | None = None


def decode(data: bytes | memoryview) -> TcpInfo:
    """Read a ``struct tcp_info``, which is shorter on older kernels.

    Raises:
        ValueError: it is shorter than that of any kernel.
    """
    if len(data) < _TIMES_OFFSET + _TIMES.size:
        raise ValueError(f"{len(data)} bytes are too few for a tcp_info")
    idle = 0 if data[0] in _OPENING else min(_TIMES.unpack_from(data, _TIMES_OFFSET))
    if len(data) < _BYTES_OFFSET + _BYTES.size:
        return TcpInfo(idle, None, None)
    sent, received = _BYTES.unpack_from(data, _BYTES_OFFSET)
    return TcpInfo(idle, sent, received, _has_dialled(data))


def _has_dialled(data: bytes | memoryview) -> bool | None:
    """Tell which end of a connection this is, by its SYN.

    The kernel counts acknowledged sequence numbers in tcpi_bytes_acked, and a SYN has one (RFC 9293 section 3.4). The
    SYN of the end that dialled is acknowledged in SYN-SENT and counted (tcp_rcv_synsent_state_process). A socket that
    is accepted starts behind its SYN (tcp_create_openreq_child). So where all is acknowledged, the counter is one
    more than the bytes that were sent, or equal to them. A FIN has a sequence number too.
    """
    if len(data) < _SENT_OFFSET + _SENT.size or data[0] not in _FIN_ACKED:
        return None
    sent, again = _SENT.unpack_from(data, _SENT_OFFSET)
    (unacknowledged,) = _UNACKED.unpack_from(data, _UNACKED_OFFSET)
    acknowledged = _BYTES.unpack_from(data, _BYTES_OFFSET)[0]
    more = acknowledged - _FIN_ACKED[data[0]] - (sent - again)
    return None if unacknowledged else {0: False, 1: True}.get(more)
