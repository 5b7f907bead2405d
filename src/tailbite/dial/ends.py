"""The two ends of a connected socket as text, for events."""

from __future__ import annotations

import os
import socket

from tailbite.core.address import Endpoint

__all__ = ["ends_of"]


def ends_of(sock: socket.socket) -> tuple[str, str]:
    """Return the local and the remote end of a connected socket as text.

    Raises:
        OSError: the socket is no longer connected.
    """
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        return str(Endpoint.from_sockaddr(sock.getsockname())), str(Endpoint.from_sockaddr(sock.getpeername()))
    return os.fsdecode(sock.getsockname() or ""), os.fsdecode(sock.getpeername() or "")
