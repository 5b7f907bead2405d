"""Processes that help a guarded program without its notice: how they start, and what they release.

A helper is not a relative of the program, keeps none of its descriptors, and ignores what a terminal sends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
from typing import TYPE_CHECKING, Final

from tailbite.kernel.fork import fork_unwaited
from tailbite.kernel.prctl import name_process, without_orphans

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HELPER_ENDED", "detach", "hears_go", "let_go_of_stderr", "spawn_beside", "why_not_started"]

HELPER_ENDED: Final = "its guard was ended from outside while it started"
"""The reason to report when :func:`hears_go` is false and the helper left none."""

_LIMITS: Final = {
    errno.EAGAIN: "no process can be started for its guard ({}; ulimit -u shows the limit of processes)",
    errno.EMFILE: "its guard needs more open files than the limit allows ({}; ulimit -n shows it)",
    errno.ENOMEM: "there is too little memory for its guard ({}; ulimit -v shows a limit)",
}

_IGNORED: Final = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGTERM,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGPIPE,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)
_INIT: Final = 1
_FORKED, _NOT_FORKED = 0, 1


def spawn_beside(work: Callable[[socket.socket], None]) -> socket.socket:
    """Run ``work`` in a helper that this process does not wait for, connected by a socket pair; return this end.

    The program must not find a child that it did not start when it waits for all its children. So the helper is
    forked twice, and its parent ends: then it belongs to process 1, or to the nearest subreaper above the program.
    Process 1 of a container has nobody above it; there the helper is a child that wait(2) does not report.

    SIGCHLD must not be ignored.

    Raises:
        OSError: EAGAIN, the limit of processes is reached.
    """
    ours, theirs = socket.socketpair()
    try:
        with without_orphans():
            _spawn(ours, theirs, work)
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours


def _spawn(ours: socket.socket, theirs: socket.socket, work: Callable[[socket.socket], None]) -> None:
    is_init = os.getpid() == _INIT
    child = fork_unwaited() if is_init else os.fork()
    if child == 0:
        status = _NOT_FORKED
        try:
            if is_init or os.fork() == 0:
                ours.close()
                work(theirs)
            status = _FORKED
        finally:
            os._exit(status)
    if not is_init:
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == _NOT_FORKED:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def why_not_started(error: OSError | MemoryError) -> str:
    """Return why a guard could not be started, for people."""
    number = error.errno if isinstance(error, OSError) else errno.ENOMEM
    text = os.strerror(number or errno.EIO)
    return _LIMITS.get(number or 0, "its guard could not be started ({})").format(text)


def hears_go(helper: socket.socket) -> bool:
    """Wait until a helper says that it is ready; False if it ended instead."""
    try:
        return helper.recv(1) == b"+"
    except OSError:
        return False


def detach(*kept: int) -> None:
    """Leave the session, the terminal, the directory and every descriptor but ``kept``.

    A pipe that stayed open here would keep its reader waiting after the program has ended: ``tailbite run -- x |
    cat``.
    """
    with contextlib.suppress(OSError):
        os.setsid()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    with contextlib.suppress(OSError, ValueError):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.chdir("/")
    name_process("tailbite-guard")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        if standard not in kept:
            os.dup2(null, standard)
    at = 3
    for descriptor in sorted(kept):
        if descriptor >= at:
            os.closerange(at, descriptor)
            at = descriptor + 1
    os.closerange(at, max(os.sysconf("SC_OPEN_MAX"), at))


def let_go_of_stderr() -> None:
    """Close the program's stderr once the program has ended, although daemons of it may still be guarded.

    A parent that reads the pipe to its end would wait for this helper. And before some kernel between 6.1 and 6.12
    this helper waits for the parent: a listener tells of the last process's end only when that was waited for.
    """
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 2)
    os.close(null)
