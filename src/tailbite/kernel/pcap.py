"""The file format of tcpdump and Wireshark (draft-ietf-opsawg-pcap). Pure."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailbite.kernel.packets import Packet

__all__ = ["pcap_header", "pcap_record"]

_PCAP_NANOSECONDS = 0xA1B23C4D  # draft-ietf-opsawg-pcap, section 4
_LINKTYPE_RAW = 101  # the packet begins with its IPv4 or IPv6 header


def pcap_header(snap_length: int = 65535) -> bytes:
    """Return the first bytes of a pcap file of IP packets, with times in nanoseconds, for tcpdump and Wireshark."""
    return struct.pack("=IHHiIII", _PCAP_NANOSECONDS, 2, 4, 0, 0, snap_length, _LINKTYPE_RAW)


def pcap_record(packet: Packet) -> bytes:
    """Return one packet as it stands in a pcap file, after :func:`pcap_header` and the packets before it."""
    seconds, rest = divmod(packet.timestamp_ns, 1_000_000_000)
    return struct.pack("=IIII", seconds, rest, len(packet.data), packet.length) + packet.data
