"""Self-check of anything that holds a socket: is the socket connected to itself?"""

from __future__ import annotations

import os
import socket
from typing import Any

from tailbite.connect.attempt import self_connected_endpoints

__all__ = ["is_self_connected"]


def is_self_connected(x: Any) -> bool:
    """Tell whether ``x`` is a TCP connection to itself.

    Args:
        x: a ``socket.socket`` (also an ``ssl.SSLSocket``), a file descriptor, an asyncio transport or
            ``StreamWriter`` (anything with ``get_extra_info("socket")``), or anything with ``fileno()``.

    Returns:
        True for a TCP socket whose two endpoints are the same (IPv4, IPv6 with its zone, v4-mapped IPv6 equal to
        IPv4). False for one that is not connected (never was, or was reset), and for sockets that are not TCP,
        such as Unix sockets.

    Raises:
        OSError: EBADF if the socket is closed, ENOTSOCK if the descriptor is not a socket.
        TypeError: there is no socket in ``x``.
    """
    if isinstance(x, socket.socket):
        return self_connected_endpoints(x) is not None
    if (get_extra_info := getattr(x, "get_extra_info", None)) is not None:
        sock = get_extra_info("socket")
        if sock is None:
            raise TypeError(f"{type(x).__name__} has no socket: get_extra_info('socket') is None")
        return self_connected_endpoints(sock) is not None
    if isinstance(x, int) and not isinstance(x, bool):
        return _is_self_connected_descriptor(x)
    if (fileno := getattr(x, "fileno", None)) is not None:
        return _is_self_connected_descriptor(fileno())
    raise TypeError(
        f"{type(x).__name__} holds no socket: pass a socket, a file descriptor, "
        f"or something with get_extra_info('socket') or fileno()"
    )


def _is_self_connected_descriptor(descriptor: int) -> bool:
    # A socket object over a copy finds out family and type, and may be closed without closing the user's.
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        return self_connected_endpoints(sock) is not None
