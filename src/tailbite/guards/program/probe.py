"""A trial of seccomp user notification, for old kernels to which a distributor has backported abilities."""

from __future__ import annotations

import os
import select
import signal
import socket
from typing import Final

from tailbite.kernel import seccomp
from tailbite.kernel.libc import architecture, libc

__all__ = ["reports_end"]

_PATIENCE_MS: Final = 1000
_ADDRESS: Final = bytes(16)


def reports_end() -> bool:
    """Tell whether a listener can let a call run (Linux 5.5) and reports the end of the last process (Linux 5.8).

    A child enters the filter and connects; SIGCHLD must not be ignored.
    """
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            _be_guarded(theirs)
        finally:
            os._exit(0)
    theirs.close()
    try:
        return _supervise(ours, child)
    except OSError:
        return False
    finally:
        ours.close()


def _be_guarded(end: socket.socket) -> None:
    abi = seccomp.ABIS[architecture()]
    listener, _ = seccomp.install(abi, seccomp.call_filter(abi))
    socket.send_fds(end, [b"L"], [listener])
    os.close(listener)
    end.close()
    libc().connect(-1, _ADDRESS, len(_ADDRESS))


def _supervise(end: socket.socket, child: int) -> bool:
    is_ended = False
    listener = -1
    try:
        _, descriptors, _, _ = socket.recv_fds(end, 1, 1)
        if not descriptors:
            return False
        listener = descriptors[0]
        calls = seccomp.Listener(listener, memoryview(bytearray(seccomp.NOTIFICATION_SIZE)))
        if not (_event(listener) & select.POLLIN and calls.receive() and calls.answer()):
            return False
        os.waitpid(child, 0)
        is_ended = True
        return bool(_event(listener) & select.POLLHUP)
    finally:
        if listener >= 0:
            os.close(listener)
        if not is_ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _event(listener: int) -> int:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return dict(poll.poll(_PATIENCE_MS)).get(listener, 0)
