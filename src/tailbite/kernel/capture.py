"""A packet socket on an interface: packet(7).

On ``lo`` a packet socket sees every packet twice, once as it leaves and once as it arrives. The copy that arrives
is the one kept here, as libpcap does: TCP is about to act on it.

Polling sockets misses a self-connect that lasts a millisecond; these segments are the complete record.
"""

from __future__ import annotations

import select
import socket
import struct
from typing import TYPE_CHECKING

from tailbite.kernel.packets import Packet
from tailbite.kernel.socket_filter import attach_filter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tailbite.kernel.packets import TcpSegment

__all__ = ["Capture"]

_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_AUXDATA = 8
_PACKET_IGNORE_OUTGOING = 23  # Linux 4.20, include/uapi/linux/if_packet.h
_SO_TIMESTAMPNS = 35
_ETH_P_ALL = 0x0003
_ETH_P_IP = 0x0800
_ETH_P_IPV6 = 0x86DD
_TIMESPEC = struct.Struct("@ll")
_AUXDATA = struct.Struct("=III")  # struct tpacket_auxdata: status, length on the wire, captured length

# Classic BPF (Documentation/networking/filter.rst): code, jump if true, jump if false, k. TCP whose two ports are the
# same, over IPv4 or plain IPv6; the packet starts with its IP header.
_SAME_PORTS = (
    (0x30, 0, 0, 0),  # A = first byte
    (0x74, 0, 0, 4),  # A >>= 4
    (0x15, 0, 8, 4),  # IPv4? else to the IPv6 half
    (0x30, 0, 0, 9),  # A = protocol
    (0x15, 0, 14, socket.IPPROTO_TCP),
    (0xB1, 0, 0, 0),  # X = header length
    (0x48, 0, 0, 0),  # A = source port
    (0x02, 0, 0, 0),  # M[0] = A
    (0x48, 0, 0, 2),  # A = destination port
    (0x61, 0, 0, 0),  # X = M[0]
    (0x1D, 7, 8, 0),  # A == X?
    (0x15, 0, 7, 6),  # IPv6?
    (0x30, 0, 0, 6),  # A = next header
    (0x15, 0, 5, socket.IPPROTO_TCP),
    (0x28, 0, 0, 40),  # A = source port
    (0x07, 0, 0, 0),  # X = A
    (0x28, 0, 0, 42),  # A = destination port
    (0x1D, 0, 1, 0),  # A == X?
    (0x06, 0, 0, 0xFFFFFFFF),  # take it
    (0x06, 0, 0, 0),  # leave it
)


class Capture:
    """The IP packets of one interface of the calling thread's network namespace, from now on.

    Needs CAP_NET_RAW over that namespace, which every user has in a namespace of their own (``unshare -Urn``).
    Use it as a context manager, or close it. The kernel holds packets that were not read yet: about 500 small ones,
    or more if ``net.core.rmem_max`` says so; those that did not fit are counted in :attr:`lost`.

    Args:
        interface: its name.
        snap_length: keep at most this many bytes of each packet.
        same_ports: only TCP whose two ports are the same, filtered by the kernel: other traffic then cannot
            displace a packet that may be of a self-connect.

    Raises:
        OSError: EPERM without CAP_NET_RAW, ENODEV without such an interface.
    """

    def __init__(self, interface: str = "lo", *, snap_length: int = 65535, same_ports: bool = False) -> None:
        self._snap_length = snap_length
        self._lost = 0
        # Protocol 0 receives nothing yet: bind() starts it, on one interface only (packet(7)).
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)  # cut to net.core.rmem_max
            try:
                self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            except OSError:
                pass  # before Linux 4.20 they come, and are dropped below
            if same_ports:
                attach_filter(self._socket, _SAME_PORTS)
            self._socket.bind((interface, _ETH_P_ALL))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop capturing."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor, for select(2) and its kin: readable when there are packets."""
        return self._socket.fileno()

    @property
    def lost(self) -> int:
        """The number of packets that the kernel dropped so far, because its buffer was full."""
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        self._lost += int(struct.unpack("=II", statistics)[1])  # reading resets the kernel's count
        return self._lost

    def read(self, timeout: float = 0.0, *, most: int | None = None) -> list[Packet]:
        """Return the packets that have come since the last call, the oldest first.

        Args:
            timeout: seconds to wait for the first of them.
            most: return after this many; they may come as fast as they are read.

        Raises:
            OSError: ENETDOWN if the interface went down meanwhile.
        """
        if timeout > 0:
            select.select([self._socket], [], [], timeout)
        packets: list[Packet] = []
        while most is None or len(packets) < most:
            try:
                data, ancillary, _, (_, protocol, kind, *_) = self._socket.recvmsg(self._snap_length, 128)
            except BlockingIOError:
                return packets
            if kind == socket.PACKET_OUTGOING or protocol not in (_ETH_P_IP, _ETH_P_IPV6):
                continue
            packets.append(_packet(data, ancillary))
        return packets

    def segments(self, timeout: float = 0.0) -> list[TcpSegment]:
        """Return the TCP segments among the packets that have come since the last call; see :meth:`read`."""
        found = (packet.segment() for packet in self.read(timeout))
        return [segment for segment in found if segment is not None]


def _packet(data: bytes, ancillary: Iterable[tuple[int, int, bytes]]) -> Packet:
    """Put one packet together of what recvmsg(2) returned."""
    timestamp_ns, length = 0, len(data)
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(value) >= _TIMESPEC.size:
            seconds, rest = _TIMESPEC.unpack_from(value)
            timestamp_ns = seconds * 1_000_000_000 + rest
        elif (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA) and len(value) >= _AUXDATA.size:
            length = _AUXDATA.unpack_from(value)[1]
    return Packet(timestamp_ns, length, data)
