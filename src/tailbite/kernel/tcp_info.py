"""The traffic of one connection as the kernel counts it: ``struct tcp_info`` (linux/tcp.h, tcp(7))."""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = ["TcpInfo", "decode"]

_TIMES = struct.Struct("=I4xI")  # tcpi_last_data_sent, tcpi_last_ack_sent (never set), tcpi_last_data_recv
_TIMES_OFFSET = 44
_BYTES = struct.Struct("=QQ")  # tcpi_bytes_acked, tcpi_bytes_received: Linux 4.1
_BYTES_OFFSET = 120


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """The part of ``struct tcp_info`` about data sent and received.

    Attributes:
        idle_ms: milliseconds since it last sent or received data, or since it was made if it never did.
        bytes_sent: bytes it sent and got acknowledged (tcpi_bytes_acked); None before Linux 4.1. A self-connect's own
            SYN counts as one.
        bytes_received: bytes it received (tcpi_bytes_received); None before Linux 4.1. On a self-connect these are
            its own bytes, echoed.
    """

    idle_ms: int
    bytes_sent: int | None
    bytes_received: int | None


def decode(data: bytes | memoryview) -> TcpInfo:
    """Read a ``struct tcp_info``, which is shorter on older kernels.

    Raises:
        ValueError: it is shorter than that of any kernel.
    """
    if len(data) < _TIMES_OFFSET + _TIMES.size:
        raise ValueError(f"{len(data)} bytes are too few for a tcp_info")
    idle = min(_TIMES.unpack_from(data, _TIMES_OFFSET))
    if len(data) < _BYTES_OFFSET + _BYTES.size:
        return TcpInfo(idle, None, None)
    return TcpInfo(idle, *_BYTES.unpack_from(data, _BYTES_OFFSET))
