"""Waiting that another thread, a hook or a signal handler can end: the blocking shell waits nowhere else."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["READ", "WRITE", "Interrupted", "Waiter", "is_ready"]

# poll(2) needs no descriptor of its own, and knows no limit of 1024; Windows has select() alone.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_LONGEST = 86400.0
"""Seconds of one call at most: poll(2) has an int of milliseconds, which is less than 25 days."""
_LOOK_UP = 0.1
"""Seconds between two checks of the flag where no bell can ring."""


def is_ready(sock: socket.socket) -> bool:
    """Tell whether a read would return at once: with bytes, the end of the stream, or an error.

    Raises:
        ValueError: the socket is closed.
    """
    with _Selector() as selector:
        selector.register(sock, READ)
        return bool(selector.select(0))


class Interrupted(Exception):  # noqa: N818 - named like KeyboardInterrupt: the loop was closed
    """:meth:`Waiter.interrupt` was called."""


class Waiter:
    """Waits for sockets until a given time, or until it is interrupted; after that it never waits again.

    The pair of sockets that wakes it exists only inside :meth:`armed`, so a loop at rest holds no descriptors. A
    forked process shares the pair with its parent, so it rings no bell, and checks the flag every 0.1 s instead.
    """

    def __init__(self) -> None:
        self.is_interrupted = False
        self._pid = 0
        self._ear: socket.socket | None = None
        self._bell: socket.socket | None = None

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Make waiting possible for a while, in one thread."""
        try:
            ear, bell = socket.socketpair()
        except OSError:
            # No descriptors left: a loop that reconnects forever survives that too, and checks the flag instead.
            yield
            return
        with ear, bell:
            ear.setblocking(False)
            bell.setblocking(False)
            self._ear, self._bell, self._pid = ear, bell, os.getpid()
            try:
                yield
            finally:
                self._ear = self._bell = None

    def interrupt(self) -> None:
        """End the wait that is under way, and every later one; from any thread, and from a signal handler."""
        self.is_interrupted = True
        self.ring()

    def ring(self) -> None:
        """Have the wait that is under way return early, with no socket."""
        bell = self._bell
        if bell is not None and self._pid == os.getpid():
            with contextlib.suppress(OSError):  # closed meanwhile, or full: the bell has been rung already
                bell.send(b"!")

    def wait(self, until: float, sockets: Mapping[socket.socket, int] | None = None) -> list[socket.socket]:
        """Return the sockets that are ready; none if ``until`` (:func:`time.monotonic`) has come, or earlier.

        Raises:
            Interrupted: :meth:`interrupt` was called.
        """
        ear = self._ear if self._pid == os.getpid() else None
        with _Selector() as selector:
            if ear is not None:
                selector.register(ear, READ)
            else:
                until = min(until, monotonic() + _LOOK_UP)
            for sock, what in (sockets or {}).items():
                selector.register(sock, what)
            if self.is_interrupted:
                raise Interrupted
            ready = [key.fileobj for key, _ in selector.select(min(max(0.0, until - monotonic()), _LONGEST))]
        if self.is_interrupted:
            raise Interrupted
        if ear is not None and ear in ready:
            with contextlib.suppress(BlockingIOError):
                ear.recv(4096)
        return [sock for sock in sockets or {} if sock in ready]
