"""Another port for the socket of a client that bound to port 0 and was given the port it connects to.

The socket is a copy of the program's, so what is done to it here is done to the program's. A port that the program
itself named is left alone: such a socket cannot be unbound (:mod:`tailbite.kernel.unbind`).
"""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Any

from tailbite.guards.program.shared_page import Outcome
from tailbite.kernel.unbind import unbind_chosen_port

__all__ = ["bind_again", "bind_to_another_port"]

_TRIES = 8


def bind_again(sock: Any, name: tuple[Any, ...]) -> Outcome:
    """Bind the socket of a client that binds first once more, within the range it has now."""
    try:
        sock.bind((name[0], 0, *name[2:]))
    except OSError as error:
        if error.errno == errno.EINVAL:  # bound still: the program itself named the port
            return Outcome.LEFT
    return Outcome.RELEASED


def bind_to_another_port(sock: Any, name: tuple[Any, ...], port: int) -> Outcome | None:
    """Unbind the socket of a client that binds first and bind it to any port but ``port``.

    Returns:
        The outcome; None if the socket is not bound now, so that connect(2) chooses its source port.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(_TRIES):
            try:
                unbind_chosen_port(sock)
            except OSError:
                return None  # not TCP
            # bind(2) looks at addresses, so only a socket on the same address keeps the port from being chosen again.
            stack.enter_context(_blocked(sock, name))
            try:
                sock.bind((name[0], 0, *name[2:]))
            except OSError as error:
                return Outcome.LEFT if error.errno == errno.EINVAL else None
            if (chosen := sock.getsockname()[1]) != port:
                return Outcome.RELEASED if chosen else None
    return None


@contextlib.contextmanager
def _blocked(sock: Any, name: tuple[Any, ...]) -> Any:
    with socket.socket(sock.family, socket.SOCK_STREAM) as blocker:
        with contextlib.suppress(OSError):
            blocker.bind(name)
        yield
