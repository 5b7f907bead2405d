"""A verifier's conversation on a blocking shell's socket, which leaves the user's bytes in the socket."""

from __future__ import annotations

import select
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

from tailbite.dial.waiter import READ, WRITE
from tailbite.errors import VerifyError
from tailbite.verifiers.verification import Accepted, Send, Verification

if TYPE_CHECKING:
    import ssl

    from tailbite.connect.target import Target
    from tailbite.dial.waiter import Waiter
    from tailbite.verifiers.verification import Verifier

__all__ = ["verify"]

_UNIX = getattr(socket, "AF_UNIX", None)  # not in Python for Windows
_LOOK_AGAIN = 0.01
"""Seconds between two peeks where the kernel cannot wait for more than was peeked at."""


def verify(sock: socket.socket, verifier: Verifier, target: Target, timeout: float, waiter: Waiter) -> None:
    """Have ``verifier`` talk with the peer of a non-blocking socket.

    Raises:
        VerifyError: the peer is refused, or the time is over; the socket is the caller's to close.
        Interrupted: the waiter was interrupted.
    """
    verification = Verification(verifier, target)
    line = _Line(sock, monotonic() + timeout, waiter)
    try:
        while not isinstance(verification.wants, Accepted):
            if isinstance(verification.wants, Send):
                line.send(verification.wants.data)
                verification.done()
            else:
                verification.done(line.receive(verification.wants.most))
        line.give_back(verification.consumed, verification.wants.unread)
    except VerifyError:
        raise
    except OSError as error:
        raise verification.failed(error) from error


class _Line:
    """A socket that is read by peeking; TLS cannot be peeked at, so there bytes are read and put back."""

    def __init__(self, sock: socket.socket, until: float, waiter: Waiter) -> None:
        self._sock: Any = sock
        self._is_tls = hasattr(sock, "do_handshake")
        self._until = until
        self._waiter = waiter
        self._seen = 0

    def send(self, data: bytes) -> None:
        while data:
            try:
                data = data[self._sock.send(data) :]
            except OSError as error:
                self._wait(error, WRITE)

    def receive(self, most: int) -> bytes:
        while True:
            try:
                return self._sock.recv(most) if self._is_tls else self._peek(most)
            except OSError as error:
                self._wait(error, READ)

    def _wait(self, error: OSError, what: int) -> None:
        """Wait for what the call would have waited for; any other error is raised."""
        kind = type(error).__name__
        if kind == "SSLWantWriteError":
            what = WRITE
        elif not isinstance(error, BlockingIOError) and kind != "SSLWantReadError":
            raise error
        if not self._waiter.wait(self._until, {self._sock: what}) and monotonic() >= self._until:
            raise TimeoutError

    def _peek(self, most: int) -> bytes:
        """Return bytes that were not peeked at before.

        Peeking sees the same bytes again and again, and poll(2) says at once that they are there. SO_RCVLOWAT
        (socket(7)) lets it wait for one byte more than that; the end of the stream ends that wait too.
        """
        before = self._seen
        can_wait = self._sock.family != _UNIX and self._low_water(before + 1)
        try:
            waited = False
            while True:
                data = self._sock.recv(before + most, socket.MSG_PEEK)  # BlockingIOError: nothing at all yet
                if len(data) > before or not data or (waited and can_wait) or (not can_wait and _is_over(self._sock)):
                    self._seen = len(data)
                    return bytes(data[before:])
                if can_wait:
                    waited = bool(self._waiter.wait(self._until, {self._sock: READ}))
                else:
                    self._waiter.wait(min(self._until, monotonic() + _LOOK_AGAIN))
                if monotonic() >= self._until:
                    raise TimeoutError
        finally:
            if can_wait:
                self._low_water(1)

    def _low_water(self, count: int) -> bool:
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
        except OSError:
            return False
        return True

    def give_back(self, consumed: int, unread: bytes) -> None:
        if self._is_tls:
            if unread:
                _give_back_to_tls(self._sock, unread)
            return
        while consumed:
            consumed -= len(self._sock.recv(consumed))


def _is_over(sock: socket.socket) -> bool:
    """Tell whether the peer has closed its half, though there are bytes left to read (poll(2), POLLRDHUP).

    Windows has no poll: there the verification waits until its time is over.
    """
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(sock, getattr(select, "POLLRDHUP", select.POLLHUP))
    return bool(poll.poll(0))


def _give_back_to_tls(sock: ssl.SSLSocket, unread: bytes) -> None:
    """Have an ``SSLSocket`` hand out ``unread`` before anything else.

    All its ways of reading end in ``read()``, and nobody can read TLS around it through the descriptor. The class
    is made here, so that ssl is imported only by those who use it.
    """
    import ssl

    class GivenBackSSLSocket(ssl.SSLSocket):
        _unread = b""

        def read(self, length: int = 1024, buffer: Any = None) -> Any:
            if not self._unread:
                return super().read(length, buffer)
            data, self._unread = self._unread[:length], self._unread[length:]
            if buffer is None:
                return data
            memoryview(buffer).cast("B")[: len(data)] = data
            return len(data)

        def pending(self) -> int:
            return len(self._unread) + super().pending()

    sock.__class__ = GivenBackSSLSocket
    sock._unread = unread  # type: ignore[attr-defined]
