"""Keeping a port from being drawn by holding it, in a way that hardly any server notices.

``connect()`` without a bound port skips every port that has a bind bucket made by a bind(2), whatever address that
bind was for, and whatever its family (``__inet_hash_connect``: ``fastreuse >= 0``). bind(2) of a server on the other
hand compares addresses. So the port is held on an address that no server uses: IPv6's discard prefix, bound with
IP_FREEBIND. Measured on Linux 6.18, while it is held: servers on 127.0.0.1, 0.0.0.0 and ::1 start with and without
SO_REUSEADDR; one on [::] starts with SO_REUSEADDR (node, Java, Go and nginx set it) and not without.

What it does not keep away: bind(2) with port 0 looks at addresses too, so a client that binds to "any port" before
it connects may still be given the port.
"""

from __future__ import annotations

import socket
from time import monotonic
from typing import Final

__all__ = ["HOLD_FOR", "Holds", "hold"]

HOLD_FOR: Final = 0.05
"""Seconds a port is held around one connect: the caller runs again within microseconds, unless the CPUs are busy."""

_MOST = 64
_IP_FREEBIND = 15  # ip(7); works on AF_INET6 sockets as well
_NOWHERE = ("100::1", socket.AF_INET6), ("192.0.2.1", socket.AF_INET)  # RFC 6666; RFC 5737 where IPv6 is off


def hold(port: int) -> socket.socket:
    """Return a socket that keeps ``port`` from being drawn as source port until it is closed.

    Raises:
        OSError: EADDRINUSE, a server has it, so nobody can draw it; EACCES, the port is privileged.
    """
    for host, family in _NOWHERE:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            if family == socket.AF_INET:
                raise
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            sock.bind((host, port))
            return sock
        except OSError:
            sock.close()
            if family == socket.AF_INET:
                raise
    raise AssertionError("unreachable")


class Holds:
    """The ports held around connects that are under way."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[socket.socket | None, float]] = {}

    def keep(self, port: int) -> None:
        """Hold ``port`` for :data:`HOLD_FOR` seconds from now."""
        sock, _ = self._held.pop(port, (None, 0.0))
        if sock is None:
            if len(self._held) >= _MOST:
                self._drop(next(iter(self._held)))
            try:
                sock = hold(port)
            except OSError:
                return  # a server has the whole port
        self._held[port] = (sock, monotonic() + HOLD_FOR)

    def expire(self) -> float | None:
        """Let go of what was held long enough; return the seconds until the next is due, None if there is none."""
        if not self._held:
            return None
        now = monotonic()
        while self._held:
            port, (_, until) = next(iter(self._held.items()))  # in the order of their ends
            if until > now:
                return until - now
            self._drop(port)
        return None

    def _drop(self, port: int) -> None:
        sock, _ = self._held.pop(port)
        if sock is not None:
            sock.close()
