"""Waiting that another thread can end: the blocking shell waits nowhere else."""

from __future__ import annotations

import contextlib
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
_LOOK_UP = 0.1
"""Seconds between two looks at what a bell would have rung for."""


def is_ready(sock: socket.socket) -> bool:
    """Tell whether there is something to read now: bytes, the end, or an error.

    Raises:
        ValueError: the socket is closed.
    """
    with _Selector() as selector:
        selector.register(sock, READ)
        return bool(selector.select(0))


class Interrupted(Exception):  # noqa: N818 - it is no error: the loop was closed
    """:meth:`Waiter.interrupt` was called."""


class Waiter:
    """Waits for sockets, with an end in time, until somebody interrupts; then never again.

    The pair of sockets that wakes it exists only inside :meth:`armed`, so a loop at rest holds no descriptors.
    """

    def __init__(self) -> None:
        self.is_interrupted = False
        self._ear: socket.socket | None = None
        self._bell: socket.socket | None = None

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Make waiting possible for a while, in one thread."""
        try:
            ear, bell = socket.socketpair()
        except OSError:
            # No descriptors left: a loop that reconnects for ever lives through that too, and looks up more often.
            yield
            return
        with ear, bell:
            ear.setblocking(False)
            bell.setblocking(False)
            self._ear, self._bell = ear, bell
            try:
                yield
            finally:
                self._ear = self._bell = None

    def interrupt(self) -> None:
        """End the wait that is under way, and every later one; from any thread, and from a signal handler."""
        self.is_interrupted = True
        self.ring()

    def ring(self) -> None:
        """Have the wait that is under way return early, with nothing."""
        bell = self._bell
        if bell is not None:
            with contextlib.suppress(OSError):  # closed meanwhile, or full: somebody has rung already
                bell.send(b"!")

    def wait(self, until: float, sockets: Mapping[socket.socket, int] | None = None) -> list[socket.socket]:
        """Return the sockets that are ready; none if ``until`` (:func:`time.monotonic`) has come, or earlier.

        Raises:
            Interrupted: somebody called :meth:`interrupt`.
        """
        with _Selector() as selector:
            if self._ear is not None:
                selector.register(self._ear, READ)
            else:
                until = min(until, monotonic() + _LOOK_UP)
            for sock, what in (sockets or {}).items():
                selector.register(sock, what)
            if self.is_interrupted:
                raise Interrupted
            ready = [key.fileobj for key, _ in selector.select(max(0.0, until - monotonic()))]
        if self.is_interrupted:
            raise Interrupted
        if self._ear in ready and self._ear is not None:
            with contextlib.suppress(BlockingIOError):
                self._ear.recv(4096)
        return [sock for sock in sockets or {} if sock in ready]
