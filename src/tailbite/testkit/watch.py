"""Which self-connects did this process make since a moment ago?

Three looks, since a self-connect can end in three ways: sockets are looked at when Python closes them (however they
are closed); those that are still open, Python's or a C library's, are found by sock_diag among our descriptors; and
one that was closed behind our back left TIME-WAIT on a port that was dialled here.
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

__all__ = ["Found", "Watch"]


@dataclass(frozen=True, slots=True, order=True)
class Found:
    """A self-connect of this process.

    Attributes:
        endpoints: the connection, such as ``127.0.0.1:40000 -> 127.0.0.1:40000``.
        state: what had become of it: ``closed`` or a TCP state.
    """

    endpoints: str
    state: str

    def __str__(self) -> str:
        return f"{self.endpoints} ({self.state})"


class Watch:
    """Watches the sockets of this process; :meth:`begin` and :meth:`end` frame what is asked about."""

    def __init__(self) -> None:
        self._closed: list[Found] = []
        self._dialled: set[int] = set()
        self._before: set[tuple[str, tuple[int, int]]] = set()
        self._close: Callable[[socket.socket], None] | None = None

    def start(self) -> None:
        """Begin to listen to connects, and look at sockets when they are closed."""
        original = self._close = socket.socket.close
        watch = self

        def close(sock: socket.socket) -> None:
            watch._look(sock)
            original(sock)

        socket.socket.close = close  # type: ignore[method-assign,assignment]
        listen(self._heard)

    def stop(self) -> None:
        """Undo :meth:`start`."""
        if self._close is not None:
            socket.socket.close = self._close  # type: ignore[method-assign,assignment]
            self._close = None
            unlisten(self._heard)

    def begin(self) -> None:
        """Forget what was; what is open or left over now is none of the next test's doing."""
        self._closed.clear()
        self._dialled.clear()
        self._before = {_name(s) for s in _self_connected()}

    def end(self) -> list[Found]:
        """Return the self-connects since :meth:`begin`, each once."""
        found = set(self._closed)
        named = {one.endpoints for one in found}
        ours = _own_inodes()
        for s in _self_connected():
            is_new = _name(s) not in self._before and str(s.endpoints) not in named
            if is_new and (s.inode in ours or (s.inode == 0 and s.endpoints.local.port in self._dialled)):
                found.add(Found(str(s.endpoints), s.state.label))
        return sorted(found)

    def _heard(self, sock: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and len(address) > 1 and isinstance(address[1], int):
            self._dialled.add(address[1])

    def _look(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            if sock.fileno() != -1 and is_self_connected(sock):
                ends = FourTuple(*(Endpoint.from_sockaddr(n) for n in (sock.getsockname(), sock.getpeername())))
                self._closed.append(Found(str(ends), "closed"))


def _name(s: TcpSocket) -> tuple[str, tuple[int, int]]:
    # A TIME-WAIT's cookie is its own, so a second one on the same port is told from the first.
    return str(s.endpoints), s.cookie


def _self_connected() -> list[TcpSocket]:
    try:
        with SockDiag() as diag:
            return list(diag.self_connects().sockets)
    except OSError:  # no sock_diag here: what Python closes is seen all the same
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
