"""The blocking shell of persistent connections."""

from __future__ import annotations

import contextlib
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any, Unpack

from tailbite.connect.target import Target
from tailbite.dial.sync import dial, ends_of
from tailbite.dial.verify_sync import verify
from tailbite.dial.waiter import Interrupted, Waiter
from tailbite.reconnect import rehearsal
from tailbite.reconnect.driver import Loop, LoopSettings
from tailbite.reconnect.machine import State
from tailbite.reconnect.messages import Believed, Closed, Input, Open, Opened, Sleep, Slept, Verify

if TYPE_CHECKING:
    from types import TracebackType

    from tailbite.reconnect.driver import Work

__all__ = ["Connection", "Connections", "connections"]


def connections(address: Any, *, read_timeout: float | None = None, **settings: Unpack[LoopSettings]) -> Connections:
    """Return an endless supply of connections to one server: when one is lost, the next one comes.

    ::

        for connection in tailbite.connections(("db", 32246), timeout=5):
            with connection as sock:
                ...

    When the block is left normally or by a lost connection, the loop reconnects; any other error propagates,
    ``break`` and ``return`` end the loop.

    Args:
        address: ``(host, port)``, or the path of a Unix socket.
        read_timeout: the timeout of the sockets the user gets, in seconds; None: they block.
        settings: see :class:`tailbite.reconnect.driver.LoopSettings`.

    Raises:
        ValueError, TypeError: arguments that cannot work, at once.
        GaveUpError: (from the loop) ``max_attempts`` or ``deadline`` was reached.
    """
    return Connections(address, read_timeout=read_timeout, **settings)


class Connections:
    """An iterator of :class:`Connection`, for one thread; :meth:`close` may be called from any.

    Args:
        address: ``(host, port)``, or the path of a Unix socket.
        read_timeout: the timeout of the sockets the user gets, in seconds; None: they block.
        settings: see :class:`tailbite.reconnect.driver.LoopSettings`.
    """

    def __init__(self, address: Any, *, read_timeout: float | None = None, **settings: Unpack[LoopSettings]) -> None:
        self._played = rehearsal.played()
        self._loop = Loop(Target.of(address), self._played.now if self._played else monotonic, **settings)
        self._read_timeout = read_timeout
        self._waiter = Waiter()
        self._sock: socket.socket | None = None

    @property
    def state(self) -> State:
        """Where the loop is."""
        return self._loop.state

    def __iter__(self) -> Connections:
        return self

    def __next__(self) -> Connection:
        """Wait for the next connection.

        Raises:
            StopIteration: the loop was closed.
            GaveUpError: a limit was reached.
            BaseException: what the classifier calls fatal, as it was.
        """
        if self._loop.state is State.CONNECTED:
            self._left(None)  # the one before was not entered, or not left
        with self._waiter.armed():
            steps = self._loop.steps(closed=self._waiter.is_interrupted)
            try:
                work = next(steps)
                while True:
                    work = steps.send(self._do(work))
            except StopIteration as end:
                if end.value:
                    return Connection(self, self._deliver())
            except BaseException:
                self._drop()
                self._loop.abandon()
                raise
        raise StopIteration

    def close(self) -> None:
        """End the loop at once: also while it waits or connects, and the connection the user has. From any thread.

        A ``recv`` that blocks in another thread returns, as if the peer had closed.
        """
        self._waiter.interrupt()
        sock = self._sock
        if sock is not None:
            with contextlib.suppress(OSError):
                # The plain socket's own: an SSLSocket would pull the TLS state from under the thread that uses it.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _do(self, work: Work) -> Input | None:
        try:
            match work:
                case Sleep(seconds):
                    return self._sleep(seconds)
                case Open(timeout):
                    return self._open(timeout)
                case Verify(timeout):
                    return self._verify(timeout)
            self._drop()
        except Interrupted:
            return Closed(self._now())
        except Exception as error:
            return self._loop.failed(error)
        return None

    def _now(self) -> float:
        return self._played.now() if self._played else monotonic()

    def _sleep(self, seconds: float) -> Input:
        if self._played:
            self._played.sleep(seconds)
        else:
            until = monotonic() + seconds
            while True:
                self._waiter.wait(until)
                if monotonic() >= until:
                    break
        return Slept(self._now())

    def _open(self, timeout: float) -> Input:
        if self._played:
            self._sock, local, remote = self._played.open(self._loop.target, timeout)
        else:
            self._sock = dial(self._loop.target, self._loop.options, timeout, self._waiter)
            local, remote = ends_of(self._sock)
        return Opened(self._now(), local, remote)

    def _verify(self, timeout: float) -> Input:
        assert self._sock is not None
        assert self._loop.verifier is not None
        if self._played:
            self._played.verify(self._sock, self._loop.verifier, self._loop.target, timeout)
        else:
            verify(self._sock, self._loop.verifier, self._loop.target, timeout, self._waiter)
        return Believed(self._now())

    def _deliver(self) -> socket.socket:
        assert self._sock is not None
        self._sock.settimeout(self._read_timeout)
        return self._sock

    def _drop(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def _left(self, error: BaseException | None) -> bool:
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()
        return self._loop.left(error) or (self._waiter.is_interrupted and isinstance(error, OSError))


class Connection:
    """One connection: a context manager whose ``with`` gives the socket, and closes it."""

    __slots__ = ("_connections", "_sock")

    def __init__(self, owner: Connections, sock: socket.socket) -> None:
        self._connections = owner
        self._sock = sock

    def __enter__(self) -> socket.socket:
        return self._sock

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return self._connections._left(error)
