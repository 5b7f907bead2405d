"""Carry out a verifier's conversation on a connected socket, and leave the caller's bytes in it.

Bytes are looked at (recv(2), MSG_PEEK), and only what the verifier has used up is taken out of the socket at the
end. So whoever gets the socket has an ordinary socket with nothing missing. Looking again must wait until there is
more than last time: SO_RCVLOWAT tells poll(2) how many bytes that is (socket(7)).
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import TYPE_CHECKING

from tailbite.connect.verifying import Accepted, Send, Verification
from tailbite.errors import VerifyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.connect.target import Target
    from tailbite.connect.verifying import Verifier

__all__ = ["PAUSE", "believe", "counts_bytes", "look", "low_water"]

PAUSE = 0.005
"""Seconds between looks where poll(2) cannot wait for *more* bytes."""


def believe(sock: socket.socket, verifier: Verifier, target: Target, timeout: float | None = None) -> None:
    """Return if the verifier accepts the peer of a connected, plain (not TLS) stream socket.

    The socket's own timeout is as before afterwards. If ``verifier.spends``, the connection is of no further use.

    Args:
        sock: the socket.
        verifier: who asks.
        target: what the user asked for.
        timeout: seconds for the whole conversation; None: what the verifier says.

    Raises:
        VerifyError: the peer is not that server, or not yet; the socket is the caller's to close.
    """
    deadline = time.monotonic() + (verifier.timeout if timeout is None else timeout)
    verification = Verification(verifier, target)
    before = sock.gettimeout()
    try:
        while not isinstance(wants := verification.wants, Accepted):
            _limit(sock, deadline)
            if isinstance(wants, Send):
                sock.sendall(wants.data)
                verification.done()
            elif verifier.spends:
                verification.done(sock.recv(wants.most))
            else:
                verification.done(_wait_and_look(sock, len(verification.received), wants.most, deadline))
        if verification.consumed and not verifier.spends:
            sock.recv(verification.consumed, socket.MSG_WAITALL)
    except VerifyError:
        raise
    except OSError as error:
        raise verification.failed(error) from error
    finally:
        sock.settimeout(before)


def _limit(sock: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    sock.settimeout(left)


def _wait_and_look(sock: socket.socket, known: int, most: int, deadline: float) -> bytes:
    if not known or counts_bytes(sock):
        with low_water(sock, known + 1):
            return sock.recv(known + most, socket.MSG_PEEK)[known:]
    while (data := look(sock, known, most)) is None:
        time.sleep(PAUSE)
        _limit(sock, deadline)
    return data


def counts_bytes(sock: socket.socket) -> bool:
    """Tell whether poll(2) heeds SO_RCVLOWAT on this socket: TCP does, Unix sockets do not (unix_poll in Linux)."""
    return sock.family in (socket.AF_INET, socket.AF_INET6)


@contextlib.contextmanager
def low_water(sock: socket.socket, size: int) -> Iterator[None]:
    """Have the socket count as readable from ``size`` bytes on; at the end of the stream or an error all the same."""
    if size == 1:
        yield
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def look(sock: socket.socket, known: int, most: int) -> bytes | None:
    """Return bytes behind the ``known`` first ones without taking them: b"" at the end, None if none came yet."""
    poll = select.poll()
    poll.register(sock, getattr(select, "POLLRDHUP", select.POLLHUP))
    ended = bool(poll.poll(0))
    data = sock.recv(known + most, socket.MSG_PEEK)[known:]
    return data if data or ended else None
