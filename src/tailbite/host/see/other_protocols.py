"""Sockets of other transport protocols on the same port number: UDP, UDP-Lite and SCTP.

Each protocol has ports of its own, so none of these keeps a TCP server from binding. They are listed because a person
who reads "nobody uses port 53" would otherwise be misled. The tables are those of proc_net(5) and, for SCTP,
``net/sctp/proc.c``.
"""
# ruff: noqa: PTH123

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.host.see.records import Process

__all__ = ["OtherUse", "other_protocol_uses", "parse_datagram_table", "parse_sctp_endpoints"]

_TABLES = (("UDP", "udp"), ("UDP", "udp6"), ("UDP-Lite", "udplite"), ("UDP-Lite", "udplite6"))
_NET = "/proc/thread-self/net"  # of the calling thread's namespace


@dataclass(frozen=True, slots=True)
class OtherUse:
    """A socket of another protocol.

    Attributes:
        protocol: UDP, UDP-Lite or SCTP.
        host: its local address.
        uid: the user that owns it.
        inode: the number /proc/PID/fd shows.
        owners: the processes that have it open, as far as they could be seen.
    """

    protocol: str
    host: str
    uid: int
    inode: int
    owners: tuple[Process, ...] = ()


def other_protocol_uses(port: int) -> tuple[OtherUse, ...]:
    """Return the sockets of other protocols on a port, in the calling thread's network namespace."""
    found: list[OtherUse] = []
    for protocol, name in _TABLES:
        found += parse_datagram_table(protocol, _lines(name), port)
    found += parse_sctp_endpoints(_lines("sctp/eps"), port)
    return tuple(dict.fromkeys(found))


def parse_datagram_table(protocol: str, lines: list[str], port: int) -> Iterator[OtherUse]:
    """Yield the sockets on a port from the lines of ``/proc/net/udp`` and its like, the heading included."""
    for line in lines[1:]:
        fields = line.split()
        if len(fields) < 10:
            continue
        address, _, local = fields[1].partition(":")
        if int(local, 16) == port:
            yield OtherUse(protocol, _address(address), int(fields[7]), int(fields[9]))


def parse_sctp_endpoints(lines: list[str], port: int) -> Iterator[OtherUse]:
    """Yield the endpoints on a port from the lines of ``/proc/net/sctp/eps``, the heading included."""
    for line in lines[1:]:
        fields = line.split()  # ENDPT SOCK STY SST HBKT LPORT UID INODE LADDRS...
        if len(fields) >= 8 and fields[5].isdigit() and int(fields[5]) == port:
            yield OtherUse("SCTP", fields[8] if len(fields) > 8 else "0.0.0.0", int(fields[6]), int(fields[7]))


def _address(text: str) -> str:
    """Return the address that the kernel prints as 32-bit words in the byte order of the machine."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def _lines(name: str) -> list[str]:
    try:
        with open(f"{_NET}/{name}", encoding="ascii", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
