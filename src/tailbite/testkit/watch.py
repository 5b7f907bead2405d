"""The self-connects that this process made during a test.

A self-connect can end in three ways, and each is found in its own: sockets are inspected when Python closes them;
sockets that are still open, Python's or a C library's, are found by sock_diag among the process's descriptors; and
one that a C library closed left TIME-WAIT on a port that was dialled here.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailbite.connect.self_check import is_self_connected
from tailbite.core.address import Endpoint, FourTuple
from tailbite.kernel.sock_diag import SockDiag
from tailbite.testkit.hook import listen, unlisten

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.kernel.sock_diag import TcpSocket

__all__ = ["SeenSelfConnect", "SelfConnectWatch"]


@dataclass(frozen=True, slots=True, order=True)
class SeenSelfConnect:
    """A self-connect of this process.

    Attributes:
        endpoints: the connection, such as ``127.0.0.1:40000 -> 127.0.0.1:40000``.
        state: its last known state: ``closed`` or a TCP state.
    """

    endpoints: str
    state: str

    def __str__(self) -> str:
        return f"{self.endpoints} ({self.state})"


class SelfConnectWatch:
    """Watch over the sockets of this process; :meth:`begin` and :meth:`end` frame a test."""

    def __init__(self) -> None:
        self._closed: list[SeenSelfConnect] = []
        self._dialled: set[int] = set()
        self._before: set[tuple[str, tuple[int, int]]] = set()
        self._close: Callable[[socket.socket], None] | None = None

    def start(self) -> None:
        """Begin to listen to connects, and to inspect sockets when they are closed."""
        original = self._close = socket.socket.close
        watch = self

        def close(sock: socket.socket) -> None:
            watch._inspect(sock)
            original(sock)

        socket.socket.close = close  # type: ignore[method-assign,assignment]
        listen(self._note_dial)

    def stop(self) -> None:
        """Undo :meth:`start`."""
        if self._close is not None:
            socket.socket.close = self._close  # type: ignore[method-assign,assignment]
            self._close = None
            unlisten(self._note_dial)

    def begin(self) -> None:
        """Forget the self-connects so far; those that are open or left over now belong to an earlier test."""
        self._closed.clear()
        self._dialled.clear()
        self._before = {_name(s) for s in _self_connected()}

    def end(self) -> list[SeenSelfConnect]:
        """Return the self-connects since :meth:`begin`, each once."""
        found = set(self._closed)
        named = {seen.endpoints for seen in found}
        ours = _own_inodes()
        for s in _self_connected():
            is_new = _name(s) not in self._before and str(s.endpoints) not in named
            if is_new and (s.inode in ours or (s.inode == 0 and s.endpoints.local.port in self._dialled)):
                found.add(SeenSelfConnect(str(s.endpoints), s.state.label))
        return sorted(found)

    def _note_dial(self, sock: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and len(address) > 1 and isinstance(address[1], int):
            self._dialled.add(address[1])

    def _inspect(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            if sock.fileno() != -1 and is_self_connected(sock):
                ends = FourTuple(*(Endpoint.from_sockaddr(n) for n in (sock.getsockname(), sock.getpeername())))
                self._closed.append(SeenSelfConnect(str(ends), "closed"))


def _name(s: TcpSocket) -> tuple[str, tuple[int, int]]:
    # Each TIME-WAIT has its own cookie, which tells a second one on the same port from the first.
    return str(s.endpoints), s.cookie


def _self_connected() -> list[TcpSocket]:
    try:
        with SockDiag() as diag:
            return list(diag.self_connects().sockets)
    except OSError:  # no sock_diag here: sockets that Python closes are seen all the same
        return []


def _own_inodes() -> set[int]:
    found = set()
    with contextlib.suppress(OSError):
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(entry.readlink())
                if target.startswith("socket:["):
                    found.add(int(target[8:-1]))
    return found
