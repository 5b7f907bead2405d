"""Socket addresses as the C library takes them (struct sockaddr_in and sockaddr_in6; ip(7), ipv6(7))."""

from __future__ import annotations

import socket
import struct
from typing import Any

__all__ = ["UNSPECIFIED", "pack_sockaddr"]

UNSPECIFIED = bytes(28)
"""A struct sockaddr_in6 of family AF_UNSPEC: connect(2) with it dissolves what an earlier connect(2) made."""


def pack_sockaddr(family: int, address: Any) -> bytes:
    """Return the C form of an address tuple of the socket module.

    Args:
        family: AF_INET or AF_INET6.
        address: a numeric host and a port, for AF_INET6 also flow information and scope if there are any.

    Raises:
        OSError: the host is not a numeric address of that family.
    """
    host, port, *rest = address
    head = struct.pack("=H", family) + struct.pack("!H", port)
    if family == socket.AF_INET:
        return head + socket.inet_pton(family, host) + bytes(8)
    flow, scope = (*rest, 0, 0)[:2]
    numeric = socket.inet_pton(family, host.partition("%")[0])
    return head + struct.pack("!I", flow) + numeric + struct.pack("=I", scope)
