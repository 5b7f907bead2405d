"""What a connection should be like, in plain words, and the socket options that makes (tcp(7), socket(7))."""

from __future__ import annotations

import math
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

    from tailbite.connect.target import Target

__all__ = ["HAPPY_EYEBALLS_DELAY", "Options"]

HAPPY_EYEBALLS_DELAY = 0.25
"""Seconds before the next address is tried beside the one under way ("Connection Attempt Delay", RFC 8305)."""


@dataclass(frozen=True, slots=True)
class Options:
    """What every connection of a loop gets.

    Attributes:
        ssl: a context for TLS; None for none.
        server_hostname: the name the certificate must be for; None takes the host.
        source_address: host and port to bind to first.
        allow_same_port: accept a ``source_address`` with the destination's port, for servers on other hosts that want
            it; a self-connect is then found after the connect, and reset.
        happy_eyeballs_delay: seconds before the next address of a name is tried beside the one under way.
        keepalive: a peer that has vanished while nothing is sent is noticed within this many seconds (SO_KEEPALIVE;
            at least 2); None leaves keepalive off.
        user_timeout: the connection ends when data sent stays unacknowledged for this many seconds
            (TCP_USER_TIMEOUT, RFC 5482, Linux); None leaves it to the kernel: about 15 minutes.
        nodelay: send small writes at once (TCP_NODELAY), as asyncio does.

    Raises:
        ValueError: numbers that are no times, or a name for a certificate without TLS.
    """

    ssl: ssl.SSLContext | None = None
    server_hostname: str | None = None
    source_address: tuple[str, int] | None = None
    allow_same_port: bool = False
    happy_eyeballs_delay: float = HAPPY_EYEBALLS_DELAY
    keepalive: float | None = None
    user_timeout: float | None = None
    nodelay: bool = True

    def __post_init__(self) -> None:
        if self.server_hostname is not None and self.ssl is None:
            raise ValueError("server_hostname is only meaningful with ssl")
        if self.keepalive is not None and not 2 <= self.keepalive <= 65534:
            raise ValueError(f"keepalive must be 2 to 65534 seconds, not {self.keepalive}")
        if self.user_timeout is not None and not 0.001 <= self.user_timeout <= 2_000_000:
            raise ValueError(f"user_timeout must be a number of seconds of at least 0.001, not {self.user_timeout}")
        if not (self.happy_eyeballs_delay >= 0 and math.isfinite(self.happy_eyeballs_delay)):
            raise ValueError(f"happy_eyeballs_delay must be 0 or more seconds, not {self.happy_eyeballs_delay}")

    @classmethod
    def of(cls, target: Target, ssl: Any = None, **options: Any) -> Options:
        """Make options of what a user passes: ``ssl=True`` is the default context, as in asyncio.

        Raises:
            ValueError: see above; also TLS without a name to check, or TCP options for a Unix socket.
        """
        if ssl is True:
            from ssl import create_default_context

            ssl = create_default_context()
        made = cls(ssl=ssl or None, **options)
        if target.is_unix:
            if made.ssl is not None and made.server_hostname is None:
                raise ValueError("TLS over a Unix socket needs server_hostname: its path is no name to check")
            for name in ("source_address", "keepalive", "user_timeout"):
                if getattr(made, name) is not None:
                    raise ValueError(f"{name} is for TCP, and {target} is a Unix socket")
        return made

    def name_to_check(self, target: Target) -> str:
        """Return the name the server's certificate must be for."""
        return self.server_hostname or target.host

    def apply(self, sock: socket.socket) -> None:
        """Set the options on a TCP socket; any other is left as it is."""
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        if self.nodelay:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.keepalive is not None:
            self._keep_alive(sock, int(self.keepalive))
        if self.user_timeout is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(self.user_timeout * 1000)))

    def _keep_alive(self, sock: socket.socket, seconds: int) -> None:
        """Half of the time in silence, then up to three probes in the other half; whole seconds are all TCP knows."""
        idle = max(1, seconds // 2)
        interval = max(1, (seconds - idle) // 3)
        probes = max(1, (seconds - idle) // interval)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", idle), ("TCP_KEEPINTVL", interval), ("TCP_KEEPCNT", probes)):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
