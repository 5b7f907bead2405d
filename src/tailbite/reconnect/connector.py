"""A persistent connection for callers without a loop of their own: ask for the socket whenever it is needed."""

from __future__ import annotations

import errno
import socket
import threading
from typing import TYPE_CHECKING, Any, Unpack

from tailbite.dial.waiter import is_ready
from tailbite.reconnect.sync import Connections

if TYPE_CHECKING:
    from tailbite.reconnect.driver import LoopSettings
    from tailbite.reconnect.machine import State

__all__ = ["Connector"]


class Connector:
    """Keeps one connection to a server; :meth:`get` connects when there is none, and again when it was lost.

    ::

        database = tailbite.Connector(("db", 32246), timeout=5, max_attempts=10)
        database.get().sendall(b"hello\\n")

    It may be used from several threads, as far as they agree on who uses the socket.

    Args:
        address: ``(host, port)``, or the path of a Unix socket.
        read_timeout: the timeout of the socket, in seconds; None: it blocks.
        settings: see :class:`tailbite.reconnect.driver.LoopSettings`.

    Raises:
        ValueError, TypeError: arguments that cannot work.
    """

    def __init__(self, address: Any, *, read_timeout: float | None = None, **settings: Unpack[LoopSettings]) -> None:
        self._connections = Connections(address, read_timeout=read_timeout, **settings)
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None

    @property
    def state(self) -> State:
        """Where it is. CONNECTED says that nobody has noticed a loss yet."""
        return self._connections.state

    def get(self) -> socket.socket:
        """Return the connected socket: the same one as long as it lives, else a new one, once there is one.

        The look at the socket finds what the kernel knows (the peer has closed or reset it, or somebody closed it
        here); a peer that vanished is noticed through ``keepalive=`` and ``user_timeout=``.

        Raises:
            GaveUpError: a limit was reached.
            ConnectionAbortedError: the connector was closed.
            BaseException: what the classifier calls fatal, as it was.
        """
        with self._lock:
            if self._sock is None or not _is_alive(self._sock):
                self._sock = None
                connection = next(self._connections, None)  # closes the one before
                if connection is None:
                    raise ConnectionAbortedError(errno.ECONNABORTED, "the connector was closed")
                self._sock = connection.__enter__()
            return self._sock

    def lost(self, error: BaseException | None = None) -> None:
        """Say that the connection is of no use any more, and why; the next :meth:`get` makes another."""
        with self._lock:
            if self._sock is not None:
                self._sock = None
                self._connections._left(error)

    def close(self) -> None:
        """End it at once, also a :meth:`get` that waits in another thread. From any thread."""
        self._connections.close()
        with self._lock:
            if self._sock is not None:
                self._sock = None
                self._connections._left(None)

    def __enter__(self) -> Connector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_alive(sock: socket.socket) -> bool:
    try:
        # Nothing to read: alive. A recv would not do: Python waits for the socket's timeout, MSG_DONTWAIT or not.
        if not is_ready(sock):
            return True
        # The plain socket's: an SSLSocket's recv takes no flags, and the end of TLS shows in the TCP stream too.
        return socket.socket.recv(sock, 1, socket.MSG_PEEK) != b""
    except (OSError, ValueError):  # ValueError: it has no descriptor any more
        return False
