"""The options of a connection in plain words, and the socket options they become (tcp(7), socket(7))."""

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
    """The options of every connection of a loop.

    Attributes:
        ssl: a context for TLS; None for none.
        server_hostname: the name the certificate must be for; None takes the host.
        source_address: host and port to bind to first.
        allow_same_port: accept a ``source_address`` with the destination's port, for servers on other hosts that want
            it; a self-connect is then noticed after the connect, and reset.
        happy_eyeballs_delay: seconds before the next address of a name is tried beside the one under way.
        keepalive: a peer that has vanished is noticed within this many seconds (at least 2), whether the connection
            is idle (SO_KEEPALIVE) or data waits for an acknowledgement (TCP_USER_TIMEOUT); None leaves both off.
        user_timeout: the connection ends when data sent stays unacknowledged for this many seconds
            (TCP_USER_TIMEOUT, RFC 5482, Linux); None takes ``keepalive``, else the kernel's time: about 15 minutes.
        nodelay: send small writes at once (TCP_NODELAY), as asyncio does.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a number out of its range, or a name for a certificate without TLS.
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
        self._check_types()
        if self.server_hostname is not None and self.ssl is None:
            raise ValueError("server_hostname is only meaningful with ssl")
        if self.keepalive is not None and not 2 <= self.keepalive <= 65534:
            raise ValueError(f"keepalive must be 2 to 65534 seconds, not {self.keepalive}")
        if self.user_timeout is not None and not 0.001 <= self.user_timeout <= 2_000_000:
            raise ValueError(f"user_timeout must be 0.001 to 2000000 seconds, not {self.user_timeout}")
        if not (self.happy_eyeballs_delay >= 0 and math.isfinite(self.happy_eyeballs_delay)):
            raise ValueError(f"happy_eyeballs_delay must be 0 or more seconds, not {self.happy_eyeballs_delay}")

    def _check_types(self) -> None:
        for name in ("keepalive", "user_timeout", "happy_eyeballs_delay"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number and (value is not None or name == "happy_eyeballs_delay"):
                raise TypeError(f"{name} must be a number of seconds, not {value!r}")
        if not isinstance(self.server_hostname, str | None):
            raise TypeError(f"server_hostname must be a name, not {self.server_hostname!r}")
        if self.ssl is not None and not hasattr(self.ssl, "wrap_bio"):
            raise TypeError(f"ssl must be True or an ssl.SSLContext, not {self.ssl!r}")
        if self.source_address is not None:
            _check_source(self.source_address)

    @classmethod
    def of(cls, target: Target, ssl: Any = None, **options: Any) -> Options:
        """Make options of the user's arguments: ``ssl=True`` is the default context, as in asyncio.

        Raises:
            TypeError, ValueError: see above; also TLS without a name to check, or TCP options for a Unix socket.
        """
        if ssl is True:
            from ssl import create_default_context

            ssl = create_default_context()
        made = cls(ssl=None if ssl is False else ssl, **options)
        if target.is_unix:
            if made.ssl is not None and made.server_hostname is None:
                raise ValueError(
                    "TLS over a Unix socket needs server_hostname: its path is not a name that can be checked"
                )
            for name in ("source_address", "keepalive", "user_timeout"):
                if getattr(made, name) is not None:
                    raise ValueError(f"{name} is for TCP, and {target} is a Unix socket")
        return made

    def name_to_check(self, target: Target) -> str:
        """Return the name the server's certificate must be for."""
        return self.server_hostname or target.host

    def apply(self, sock: socket.socket) -> None:
        """Set the options on a TCP socket; any other socket is left unchanged."""
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        if self.nodelay:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        user_timeout = self.user_timeout
        if self.keepalive is not None:
            noticed_after = self._keep_alive(sock, int(self.keepalive))
            user_timeout = noticed_after if user_timeout is None else user_timeout
        if user_timeout is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(user_timeout * 1000)))

    def restore_delay(self, sock: socket.socket) -> None:
        """Have small writes wait after all, where asyncio has set TCP_NODELAY: it does so for each new transport."""
        if not self.nodelay and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)

    def _keep_alive(self, sock: socket.socket, seconds: int) -> int:
        """Set half of the time for silence, and up to three probes for the other half; TCP knows whole seconds only.

        Keepalive probes only an idle connection. While data waits for an acknowledgement it is silent, and the kernel
        retransmits for 15 minutes or so: therefore the user timeout. That also decides when an unanswered probe ends
        the connection, in place of the number of probes (tcp(7), TCP_USER_TIMEOUT), at the time of a probe. So it
        must be exactly the time of the last one, or the end comes one interval later.

        Returns:
            the seconds after which a peer that vanished is noticed, at most ``seconds``.
        """
        idle = max(1, seconds // 2)
        interval = max(1, (seconds - idle) // 3)
        probes = max(1, (seconds - idle) // interval)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", idle), ("TCP_KEEPINTVL", interval), ("TCP_KEEPCNT", probes)):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return idle + interval * probes


def _check_source(source: Any) -> None:
    if not isinstance(source, tuple) or len(source) != 2:
        raise TypeError(f"source_address must be a pair of host and port, not {source!r}")
    host, port = source
    if not isinstance(host, str) or not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"source_address must be a pair of host (text) and port (a whole number), not {source!r}")
    if not 0 <= port <= 65535:
        raise ValueError(f"{port} is not a valid source port: it must be 0 (any) to 65535")
