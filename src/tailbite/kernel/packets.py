"""TCP segments in IP packets (RFC 791, 8200, 9293): bytes in, records out. Pure."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING

from tailbite.core.address import Endpoint, canonical_host, is_self

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Packet", "TcpFlags", "TcpOptions", "TcpSegment", "decode"]

_IPV4 = struct.Struct("!BBHHHBBH4s4s")  # RFC 791 section 3.1
_IPV6 = struct.Struct("!IHBB16s16s")  # RFC 8200 section 3
_TCP = struct.Struct("!HHIIHHHH")  # RFC 9293 section 3.1

# IPv6 extension headers that may stand before TCP (RFC 8200 section 4, RFC 4302 for AH).
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION = 0, 43, 44, 51, 60


class TcpFlags(IntFlag):
    """The control bits of a segment (RFC 9293 section 3.1)."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20
    ECE = 0x40
    CWR = 0x80

    def __str__(self) -> str:
        """Return them as tcpdump(1) prints them: S, S., ., P., F., R."""
        marks = ((TcpFlags.FIN, "F"), (TcpFlags.SYN, "S"), (TcpFlags.RST, "R"), (TcpFlags.PSH, "P"))
        return "".join(mark for flag, mark in marks if flag in self) + ("." if TcpFlags.ACK in self else "")


@dataclass(frozen=True, slots=True)
class TcpOptions:
    """The options that tailbite reads; None or empty where the segment has none.

    Attributes:
        maximum_segment_size: bytes (RFC 9293 section 3.7.1).
        window_scale: shift count (RFC 7323 section 2).
        sack_permitted: True if the sender takes selective acknowledgments (RFC 2018).
        sack_blocks: left and right edges, as sequence numbers (RFC 2018).
        timestamps: TSval and TSecr (RFC 7323 section 3).
    """

    maximum_segment_size: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    sack_blocks: tuple[tuple[int, int], ...] = ()
    timestamps: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class TcpSegment:
    """One TCP segment, and the addresses of the IP packet that carried it.

    Attributes:
        timestamp_ns: when it arrived, nanoseconds since 1970 (CLOCK_REALTIME).
        source: the sender.
        destination: where it went.
        flags: the control bits.
        sequence: the sequence number, as on the wire (not relative).
        acknowledgment: the acknowledgment number; meaningful with ACK only.
        window: as on the wire (not scaled).
        payload_length: bytes of data it carried.
        payload: as many of them as were captured.
        options: its TCP options.
    """

    timestamp_ns: int
    source: Endpoint
    destination: Endpoint
    flags: TcpFlags
    sequence: int
    acknowledgment: int
    window: int
    payload_length: int
    payload: bytes
    options: TcpOptions

    @property
    def is_to_itself(self) -> bool:
        """True if source and destination are the same endpoint: part of a self-connect, or the SYN that makes one."""
        return is_self(self.source, self.destination)

    @property
    def duplicate_sack(self) -> tuple[int, int] | None:
        """The D-SACK block (RFC 2883 section 4), or None: data that had been acknowledged came once more.

        The third segment of a simultaneous open has one: the SYN+ACK repeats the SYN.
        """
        blocks = self.options.sack_blocks
        if not blocks:
            return None
        left, right = blocks[0]
        if _before(left, self.acknowledgment):
            return blocks[0]
        if len(blocks) > 1 and not _before(left, blocks[1][0]) and not _before(blocks[1][1], right):
            return blocks[0]
        return None

    def __str__(self) -> str:
        return (
            f"{self.source} > {self.destination} [{self.flags}] seq {self.sequence}"
            f"{f' ack {self.acknowledgment}' if TcpFlags.ACK in self.flags else ''} length {self.payload_length}"
        )


def _before(one: int, other: int) -> bool:
    """Compare sequence numbers modulo 2^32 (RFC 9293 section 3.4)."""
    return one != other and (other - one) & 0xFFFFFFFF < 0x80000000


@dataclass(frozen=True, slots=True)
class Packet:
    """One captured IP packet.

    Attributes:
        timestamp_ns: when it arrived, nanoseconds since 1970 (CLOCK_REALTIME).
        length: its bytes on the wire.
        data: as many of them as were captured, from the IP header on.
    """

    timestamp_ns: int
    length: int
    data: bytes

    def segment(self) -> TcpSegment | None:
        """Decode it; see :func:`decode`."""
        return decode(self.data, timestamp_ns=self.timestamp_ns, length=self.length)


def decode(data: bytes, *, timestamp_ns: int = 0, length: int | None = None) -> TcpSegment | None:
    """Decode an IPv4 or IPv6 packet that carries TCP; None if it carries something else, or a later fragment.

    Args:
        data: the packet from its IP header on, perhaps cut short.
        timestamp_ns: passed on to the record.
        length: its bytes on the wire; as many as ``data`` has if not given.

    Raises:
        ValueError: the headers are cut short, or contradict themselves.
    """
    length = len(data) if length is None else length
    version = data[0] >> 4 if data else 0
    if version == 4:
        found = _through_ipv4(data, length)
    elif version == 6:
        found = _through_ipv6(data, length)
    else:
        raise ValueError(f"IP version {version} is neither 4 nor 6")
    if found is None:
        return None
    source, destination, start, end = found
    if len(data) - start < _TCP.size or end - start < _TCP.size:
        raise ValueError("the TCP header is cut short")
    source_port, destination_port, sequence, acknowledgment, bits, window, _, _ = _TCP.unpack_from(data, start)
    body = start + (bits >> 12) * 4
    if body < start + _TCP.size or body > end or body > len(data):
        raise ValueError(f"a TCP header of {(bits >> 12) * 4} bytes does not fit the packet")
    return TcpSegment(
        timestamp_ns=timestamp_ns,
        source=Endpoint(source, source_port),
        destination=Endpoint(destination, destination_port),
        flags=TcpFlags(bits & 0xFF),
        sequence=sequence,
        acknowledgment=acknowledgment,
        window=window,
        payload_length=end - body,
        payload=data[body:end],
        options=_options(data[start + _TCP.size : body]),
    )


def _through_ipv4(data: bytes, length: int) -> tuple[str, str, int, int] | None:
    """Return source, destination, where TCP starts and where it ends; None if it is not the start of TCP."""
    if len(data) < _IPV4.size:
        raise ValueError("the IPv4 header is cut short")
    first, _, total, _, fragment, _, protocol, _, source, destination = _IPV4.unpack_from(data)
    header = (first & 0xF) * 4
    # Segments that TCP hands over in one piece of more than 64 KiB (BIG TCP, Linux 6.3) have a length of 0.
    total = total or length
    if header < _IPV4.size or total < header or total > length:
        raise ValueError(f"an IPv4 header of {header} bytes and a length of {total} do not fit {length} bytes")
    if protocol != socket.IPPROTO_TCP or fragment & 0x1FFF:
        return None
    return socket.inet_ntop(socket.AF_INET, source), socket.inet_ntop(socket.AF_INET, destination), header, total


def _through_ipv6(data: bytes, length: int) -> tuple[str, str, int, int] | None:
    if len(data) < _IPV6.size:
        raise ValueError("the IPv6 header is cut short")
    _, payload, following, _, source, destination = _IPV6.unpack_from(data)
    end = _IPV6.size + payload if payload else length  # 0: a jumbogram (RFC 2675), BIG TCP again
    if end > length:
        raise ValueError(f"an IPv6 payload of {payload} bytes does not fit {length} bytes")
    offset = _IPV6.size
    while following != socket.IPPROTO_TCP:
        if following not in (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION):
            return None
        if len(data) < offset + 8:
            raise ValueError("an IPv6 extension header is cut short")
        kind, following = following, data[offset]
        if kind == _FRAGMENT:
            if int.from_bytes(data[offset + 2 : offset + 4], "big") & 0xFFF8:
                return None
            offset += 8
        elif kind == _AUTHENTICATION:
            offset += (data[offset + 1] + 2) * 4
        else:
            offset += (data[offset + 1] + 1) * 8
    hosts = (canonical_host(socket.inet_ntop(socket.AF_INET6, host)) for host in (source, destination))
    return next(hosts), next(hosts), offset, end


def _options(data: bytes) -> TcpOptions:
    """Read the options; a list that breaks off is read as far as it goes, as receivers do."""
    size: int | None = None
    scale: int | None = None
    permitted = False
    blocks: tuple[tuple[int, int], ...] = ()
    stamps: tuple[int, int] | None = None
    for kind, value in _option_list(data):
        if kind == 2 and len(value) == 2:
            size = int.from_bytes(value, "big")
        elif kind == 3 and len(value) == 1:
            scale = value[0]
        elif kind == 4 and not value:
            permitted = True
        elif kind == 5 and value and len(value) % 8 == 0:
            edges = struct.unpack(f"!{len(value) // 4}I", value)
            blocks = tuple(zip(edges[::2], edges[1::2], strict=True))
        elif kind == 8 and len(value) == 8:
            stamps = struct.unpack("!II", value)
    return TcpOptions(size, scale, permitted, blocks, stamps)


def _option_list(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(data) and data[offset] != 0:  # 0 ends the list, 1 is padding
        if data[offset] == 1:
            offset += 1
            continue
        length = data[offset + 1] if offset + 1 < len(data) else 0
        if length < 2 or offset + length > len(data):
            return
        yield data[offset], data[offset + 2 : offset + length]
        offset += length
