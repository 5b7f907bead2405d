"""The socket options that tailbite needs (ip(7), socket(7)), which Python's socket module does not all name."""

from __future__ import annotations

import socket
import struct
import sys
from functools import cache
from typing import TYPE_CHECKING

from tailbite.core.sub_ranges import pack_port_range

if TYPE_CHECKING:
    from tailbite.core.ports import PortRange

__all__ = [
    "IP_BIND_ADDRESS_NO_PORT",
    "IP_LOCAL_PORT_RANGE",
    "RESET_ON_CLOSE",
    "SO_NETNS_COOKIE",
    "abort",
    "leave_port_to_connect",
    "local_port_range",
    "netns_cookie",
    "pack_port_range",
    "port_range_option",
    "set_local_port_range",
    "supports_local_port_range",
]

IP_LOCAL_PORT_RANGE = 51
"""Linux 6.3, include/uapi/linux/in.h. Level IPPROTO_IP for AF_INET6 as well; for MPTCP since Linux 6.8."""

IP_BIND_ADDRESS_NO_PORT = 24
"""Linux 4.2, include/uapi/linux/in.h."""

SO_NETNS_COOKIE = 71
"""Linux 5.14, include/uapi/asm-generic/socket.h (a few architectures have another number and fail the probe)."""

RESET_ON_CLOSE = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""SO_LINGER, struct linger: on, 0 seconds. Its members are of type u_short on Windows."""


def set_local_port_range(sock: socket.socket, ports: PortRange) -> None:
    """Have the kernel choose this socket's source port from ``ports`` (Linux 6.3, unprivileged).

    A bound outside ``ip_local_port_range`` is ignored on its own, so ``ports`` must lie within it.

    Raises:
        OSError: ENOPROTOOPT before Linux 6.3.
    """
    sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, pack_port_range(ports.low, ports.high))


def local_port_range(sock: socket.socket) -> tuple[int, int]:
    """Return the two bounds of the socket's own port range; 0 is a bound that is not set.

    Raises:
        OSError: ENOPROTOOPT before Linux 6.3.
    """
    value = sock.getsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE) & 0xFFFFFFFF
    return value & 0xFFFF, value >> 16


def port_range_option(sock: socket.socket) -> int | None:
    """Return the value of a socket's IP_LOCAL_PORT_RANGE, 0 if it was not set; None if the socket cannot have one.

    Before Linux 6.8 MPTCP sockets cannot (EOPNOTSUPP), also on kernels that have the option for TCP.
    """
    try:
        return sock.getsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE)
    except OSError:
        return None


@cache
def supports_local_port_range() -> bool:
    """Tell whether this system has IP_LOCAL_PORT_RANGE, by setting it and reading it back, once per process."""
    if not sys.platform.startswith("linux"):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, pack_port_range(40000, 50000))
            return local_port_range(sock) == (40000, 50000)
        except OSError:
            return False


def leave_port_to_connect(sock: socket.socket) -> bool:
    """Have bind(2) with port 0 bind the address only, so that connect(2) chooses the port (ip(7)).

    Returns:
        False where the system or the protocol lacks the option: then bind(2) chooses the port.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    except OSError:
        return False
    return True


def netns_cookie(sock: socket.socket) -> bytes:
    """Return the 8 bytes that identify the socket's network namespace until the machine restarts.

    Raises:
        OSError: ENOPROTOOPT before Linux 5.14 and elsewhere.
    """
    return sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)


def abort(sock: socket.socket) -> None:
    """Close a connection with RST: no TIME-WAIT stays behind (RFC 9293 section 3.10.5; SO_LINGER in socket(7)).

    Never raises: a socket that is closed, or was never connected, is closed afterwards too.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    except OSError:
        pass  # closed already, or a family without the option: close() must do
    finally:
        sock.close()
