"""A persistent connection for callers without a loop of their own: ask for the socket whenever it is needed."""

from __future__ import annotations

import errno
import os
import socket
import threading
from typing import TYPE_CHECKING, Unpack

from tailbite.core.uncopyable import Uncopyable
from tailbite.dial.waiter import is_ready
from tailbite.reconnect.machine import State
from tailbite.reconnect.sync import Connections

if TYPE_CHECKING:
    from tailbite.reconnect.arguments import Address, LoopSettings

__all__ = ["Connector"]


class Connector(Uncopyable):
    """One connection to a server, made by the first :meth:`get`, and again after a loss.

    ::

        database = tailbite.Connector(("db", 32246), timeout=5, max_attempts=10)
        database.get().sendall(b"hello\\n")

    Several threads may use it, as far as they agree on who uses the socket. In a forked process it makes a connection
    of its own, and leaves the parent's alone.

    Args:
        address: a pair of host and port (or name of a service), or the path of a Unix socket.
        read_timeout: the timeout of the socket, in seconds; None, the default, waits without a limit.
        timeout: seconds for opening one connection: name, socket and TLS together; 10 if not given.
        backoff: the delays between attempts: a :class:`~tailbite.Backoff`, or a function that returns an iterator of
            seconds for one outage. If not given, each is random, below a ceiling that doubles from 0.1 s to 30 s.
        max_attempts: the number of attempts an outage may have; None, the default, sets no limit.
        deadline: seconds an outage may take, counted from the moment a connection is asked for; the last attempt
            begins shortly before the end. None, the default, sets no limit.
        first: a :class:`~tailbite.Policy` with a backoff and limits for the time until the first connection
            succeeds; None, the default, makes it the same as later.
        healthy_after: seconds after which a connection counts as one that works, so that its loss begins a new
            outage with short delays; 5 if not given.
        retry: the errors that are worth another attempt: one exception type or a tuple of them, in addition to the
            default ones, or a function that takes an error and returns True for another attempt.
        verify: a verifier from :mod:`tailbite.verify`, or one of your own, that must accept the peer before the
            connection is delivered; None, the default, accepts every peer.
        hooks: one function, or several, called with every event of :mod:`tailbite.events`.
        ssl: True, or an ``ssl.SSLContext``, for TLS; None, the default, for none.
        server_hostname: the name that the server's certificate must be for; the host if not given.
        source_address: a pair of host and port to bind to first; port 0 leaves the port to the kernel.
        allow_same_port: True accepts a ``source_address`` with the port of the destination, for servers on other
            hosts that want it; a self-connect is then noticed after the connect, and reset.
        happy_eyeballs_delay: seconds before the next address of a name is tried beside the one under way (RFC 8305);
            0.25 if not given.
        keepalive: seconds (2 to 65534) within which a peer that has vanished ends the connection, whether it is idle
            (SO_KEEPALIVE) or data waits for an acknowledgement (TCP_USER_TIMEOUT); None, the default, leaves it to
            the kernel.
        user_timeout: seconds for which data may stay unacknowledged (TCP_USER_TIMEOUT, Linux); if not given, that of
            ``keepalive``, else about 15 minutes. It decides for an idle connection with keepalive, too (tcp(7)).
        nodelay: send small writes at once (TCP_NODELAY); True if not given.

    Raises:
        TypeError, ValueError: arguments that cannot work.
    """

    def __init__(
        self, address: Address, *, read_timeout: float | None = None, **settings: Unpack[LoopSettings]
    ) -> None:
        self._arguments = address, read_timeout, settings
        self._is_closed = False
        self._begin()

    def _begin(self) -> None:
        address, read_timeout, settings = self._arguments
        self._pid = os.getpid()
        self._connections = Connections(address, read_timeout=read_timeout, **settings)
        # Both are re-entrant, because a hook or a signal handler calls from inside get().
        self._getting_lock = threading.RLock()  # held as long as get() takes
        self._lock = threading.RLock()  # held for moments, for what uses _sock
        self._is_getting = False
        self._sock: socket.socket | None = None  # None while get() connects

    def _begin_again_in_a_forked_process(self) -> None:
        # The parent's lock may be held by a thread that does not exist here.
        if os.getpid() != self._pid:
            self._connections.close()
            self._begin()

    @property
    def state(self) -> State:
        """The state of the connection. CONNECTED means that nobody has noticed a loss yet."""
        return self._connections.state

    def get(self) -> socket.socket:
        """Return the connected socket: the same one as long as it lives, else a new one, once there is one.

        A check of the socket finds what the kernel knows: the peer has closed or reset the connection, or the
        socket was closed here. A peer that vanished is noticed through ``keepalive=`` and ``user_timeout=``.
        After an error, the next call begins a new outage.

        Raises:
            GaveUpError: a limit was reached.
            ConnectionAbortedError: the connector was closed.
            RuntimeError: called from inside itself, by a hook or a signal handler.
            BaseException: an error that the classifier calls fatal, unchanged.
        """
        self._begin_again_in_a_forked_process()
        with self._getting_lock:
            if self._is_getting:
                raise RuntimeError("get() was called by a hook or a signal handler while it waits in this thread")
            try:
                self._is_getting = True
                sock = self._present() or self._connected()
            finally:
                self._is_getting = False
        if sock is None or self._is_closed:
            self._release(None)
            raise ConnectionAbortedError(errno.ECONNABORTED, "the connector was closed")
        return sock

    def _present(self) -> socket.socket | None:
        """Return the socket if it is alive; one that is not is closed."""
        with self._lock:
            if self._sock is not None and not _is_alive(self._sock):
                self._release(None)
            return self._sock

    def _connected(self) -> socket.socket | None:
        if self._is_closed:
            return None
        self._connections._renew()
        connection = next(self._connections, None)
        if connection is None:
            return None
        sock = self._sock = connection.__enter__()
        return sock

    def lost(self, error: BaseException | None = None, sock: socket.socket | None = None) -> None:
        """Report that the connection can no longer be used, and why; the next :meth:`get` makes another.

        It never waits: while another thread's :meth:`get` connects, there is nothing left to lose.

        Args:
            error: the error that showed it, for the hooks.
            sock: the socket that failed, as :meth:`get` returned it. If another thread has a newer one by now, that
                one is kept. None, the default, means the present one.
        """
        self._begin_again_in_a_forked_process()
        self._release(error, sock)

    def close(self) -> None:
        """End it at once, also a :meth:`get` that waits: from any thread, a hook, a signal handler, more than once.

        In a forked process this closes the process's copy of the descriptor, and leaves the connection to the parent.
        """
        self._is_closed = True
        self._connections.close()
        if os.getpid() == self._pid:
            self._release(None)

    def _release(self, error: BaseException | None, sock: socket.socket | None = None) -> None:
        """Close the present socket, or only ``sock`` if that is the present one."""
        with self._lock:
            # In this order, and no step harmful if it is repeated: Ctrl-C may come between any two.
            if self._sock is not None and sock in (None, self._sock):
                if self._connections.state is State.CONNECTED:
                    self._connections._block_left(error)
                self._sock = None

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
    except (OSError, ValueError):  # ValueError: it no longer has a descriptor
        return False
