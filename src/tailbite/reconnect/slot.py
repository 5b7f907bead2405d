"""The place of a blocking loop's one connection: filled and emptied by the loop, ended from anywhere.

That is another thread, a signal handler, a hook, or a forked process. A forked process has a copy of
the descriptor, but the connection behind it is the parent's: shutdown(2) there would end the parent's connection,
close(2) only gives the copy back.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading

__all__ = ["SocketSlot"]


class SocketSlot:
    """Holds at most one connected socket.

    The lock keeps :meth:`end` from a descriptor that :meth:`empty` has just closed, and that may belong to something
    else by then. It is re-entrant, because a signal handler interrupts the thread that holds it, and it is left alone
    in a forked process, where the thread that holds it may not exist.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._sock: socket.socket | None = None
        self._pid = 0

    @property
    def sock(self) -> socket.socket | None:
        """The socket, None in an empty slot."""
        return self._sock

    def fill(self, sock: socket.socket) -> None:
        """Put a socket in; the slot was empty."""
        self._sock, self._pid = sock, os.getpid()

    def empty(self) -> None:
        """Close the socket if there is one; Ctrl-C in the middle of this leaves it to the next call."""
        if os.getpid() != self._pid:
            self._lock = threading.RLock()
        with self._lock:
            if self._sock is not None:
                self._sock.close()
                self._sock = None

    def end(self) -> None:
        """Shut the connection down, so that a thread that waits for it returns; in a forked process close the copy.

        From any thread, and from a signal handler.
        """
        if os.getpid() != self._pid:
            self.empty()
            return
        with self._lock:
            if self._sock is not None:
                with contextlib.suppress(OSError):
                    # The plain socket's own: an SSLSocket's drops the TLS state, which another thread may be using.
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
