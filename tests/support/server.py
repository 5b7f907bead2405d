"""Small servers in threads of the test's namespace."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.listeners import wait_for_client
from support.trap import PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["echo", "echo_upper", "no_socket_left", "open_sockets", "server_for", "serving"]


@contextlib.contextmanager
def serving(handle: Callable[[socket.socket], object], address: Any = ("127.0.0.1", PORT)) -> Iterator[list[float]]:
    """Accept connections in a thread and handle each in one of its own; yields the times of the accepts."""
    from time import monotonic

    listener = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(100)
    accepted: list[float] = []
    alive: list[socket.socket] = []

    def serve(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            handle(sock)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            accepted.append(monotonic())
            alive.append(sock)
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield accepted
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for sock in alive:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        thread.join(60)


@contextlib.contextmanager
def server_for(when: str) -> Iterator[None]:
    """Keep a client where it is.

    Nobody listens if it is sleeping or resolving, a full backlog if it is connecting; else the server is silent.
    """
    here = ("127.0.0.1", PORT)
    with contextlib.ExitStack() as stack:
        if when == "connecting":
            listener = stack.enter_context(socket.create_server(here, backlog=0))
            stack.enter_context(socket.create_connection(here))
            wait_for_client(listener)
        elif when not in ("sleeping", "resolving"):
            stack.enter_context(serving(lambda sock: sock.recv(10)))
        yield


def echo(sock: socket.socket) -> None:
    """Send back what comes, for :func:`serving`."""
    while data := sock.recv(100):
        sock.sendall(data)


def echo_upper(sock: socket.socket) -> None:
    """Send back what comes in capitals, which tells an answer from a client's own bytes."""
    while data := sock.recv(4096):
        sock.sendall(data.upper())


@contextlib.contextmanager
def no_socket_left() -> Iterator[None]:
    """Check that this process has no more sockets after the block than before; threads get a while to end theirs."""
    before = open_sockets()
    yield
    deadline = time.monotonic() + 60
    while (left := open_sockets() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left == set()


def open_sockets() -> set[str]:
    """Return the sockets that this process has open; a closed one that is not collected yet counts."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(path.readlink()))
    return {each for each in found if each.startswith("socket:")}
