"""The connect calls of a killed worker that are still under way, and the sockets that hold their ports.

A port must stay held until the call is over, also if the worker that holds it is killed (SIGKILL) meanwhile. So the
holding socket waits in the queue of a socket pair that all helpers have open: the kernel keeps a descriptor that was
sent and not yet received (unix(7), SCM_RIGHTS). And the calls are written to memory that all helpers share.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["CallTable", "Deposit"]

_LEFT: Final = "left"
_PORT_BITS: Final = 16
_INT: Final = struct.Struct("=i")


class Deposit:
    """The queue of one worker's holding sockets; the next worker of the same slot finds what is in it."""

    def __init__(self) -> None:
        self._enter, self._leave = socket.socketpair()
        self._enter.setblocking(False)
        self._leave.setblocking(False)
        self._keys: list[Hashable] = []

    def close(self) -> None:
        """Drop all sockets."""
        self._enter.close()
        self._leave.close()

    @property
    def descriptors(self) -> tuple[int, int]:
        """The descriptors of both ends."""
        return self._enter.fileno(), self._leave.fileno()

    def take_over(self) -> None:
        """Become responsible for the sockets that a killed worker left; :meth:`drop_left` drops them."""
        count = bytearray(_INT.size)
        fcntl.ioctl(self._leave, termios.FIONREAD, count)  # each is sent with one byte
        self._keys = [_LEFT] * _INT.unpack(count)[0]

    def drop_left(self) -> None:
        """Drop the sockets that a killed worker left."""
        self.remove(_LEFT)

    def add(self, key: Hashable, sock: socket.socket) -> None:
        """Keep a copy of a socket open. If the queue has no space, the socket ends with this process."""
        self._put_copy(key, sock.fileno())

    def leave(self, sock: socket.socket) -> None:
        """Add a socket to those that a killed worker left; call this only while no worker uses this deposit."""
        with contextlib.suppress(OSError):
            self._send(sock.fileno())

    def remove(self, key: Hashable) -> None:
        """Drop the copy of a socket; the others stay open all the time."""
        while key in self._keys:
            first = self._keys.pop(0)
            if first != key:
                for copy in self._receive(socket.MSG_PEEK):  # a copy of what stays in the queue
                    self._put_copy(first, copy)
                    os.close(copy)
            for dropped in self._receive(0):
                os.close(dropped)

    def _put_copy(self, key: Hashable, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            self._send(descriptor)
            self._keys.append(key)

    def _send(self, descriptor: int) -> None:
        socket.send_fds(self._enter, [b"\0"], [descriptor])

    def _receive(self, flags: int) -> list[int]:
        """Return a descriptor for the first socket in the queue, none if this process can open no more.

        socket.recv_fds would ignore the flags.
        """
        _, controls, _, _ = self._leave.recvmsg(1, socket.CMSG_LEN(_INT.size), flags)
        return [int(_INT.unpack_from(content)[0]) for _, _, content in controls]


class CallTable:
    """The calls of one worker that are under way, in memory that its successor sees.

    Args:
        memory: 8-byte numbers, all of them 0 in the beginning. There can be more calls than places: a successor does
            not know of those.
    """

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._free = [place for place, word in enumerate(memory) if not word]

    def calls_left(self) -> list[tuple[int, int, int]]:
        """Return the thread, the port and the place of each call in the table."""
        mask = (1 << _PORT_BITS) - 1
        return [(word >> _PORT_BITS, word & mask, place) for place, word in enumerate(self._memory) if word]

    def add(self, tid: int, port: int) -> int | None:
        """Write a call into the table, and return its place; None if the table is full."""
        if not self._free:
            return None
        place = self._free.pop()
        self._memory[place] = tid << _PORT_BITS | port
        return place

    def remove(self, place: int | None) -> None:
        """Remove a call."""
        if place is not None:
            self._memory[place] = 0
            self._free.append(place)
