"""The two helper processes of a guarded program, each of which takes over when the other is killed.

While a filter has no listener at all, every connect fails with ENOSYS; while a call was received and nobody answers
it, it blocks for ever. So there are two processes with the listener: the *worker* answers, the *monitor* waits for
the worker's death and starts another. If the monitor dies, the worker becomes the monitor and starts a worker. The
call in hand lies in memory they share (:mod:`tailbite.guards.program.shared_page`), so the successor finishes it.
Both must be killed in the same instant to leave a program without; then its connects fail with ENOSYS.

They are no relatives of the program, keep none of its descriptors, ignore what a terminal sends, and end when the
last process under the filter has (POLLHUP, Linux 5.8).
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
from time import sleep
from typing import TYPE_CHECKING, Final

from tailbite.guards.program.shared_page import Outcome
from tailbite.kernel.prctl import name_process, signal_when_parent_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.guards.program.shared_page import Tally
    from tailbite.guards.program.steerer import Steerer
    from tailbite.kernel.seccomp import Listener

__all__ = ["answer_all", "detach", "keep", "keep_listening", "serve", "spawn_beside"]

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


def spawn_beside(work: Callable[[socket.socket], None]) -> socket.socket:
    """Run ``work`` in a process that is no child of this one; return our end of a socket pair, it gets the other.

    The program must not find a child it did not start when it waits for any, so the helper is forked twice.

    Raises:
        OSError: EAGAIN, the limit of processes is reached.
    """
    ours, theirs = socket.socketpair()
    try:
        child = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if child == 0:
        try:
            if os.fork() == 0:
                ours.close()
                work(theirs)
        finally:
            os._exit(0)
    theirs.close()
    os.waitpid(child, 0)
    return ours


def detach(*kept: int) -> None:
    """Leave the session, the terminal, the directory and every descriptor but ``kept``, which are not ours to keep.

    A pipe that stayed open here would keep its reader waiting after the program is gone: ``tailbite run -- x | cat``.
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


def keep(work: Callable[[int], bool], is_over: int, events: int, took_over: Callable[[], None] | None = None) -> None:
    """Be monitor and worker by turns, until it is over; does not return in the worker.

    Args:
        work: does the work; gets a descriptor that becomes readable when the monitor is gone, and then returns
            False. True says that it is over.
        is_over: what the monitor watches besides its worker.
        events: what to wait for there; select.POLLHUP comes unasked.
        took_over: called by whoever has just taken over from a process that was killed.
    """
    while True:
        monitor = os.getpid()
        try:
            worker = os.fork()
        except OSError:  # the limit of processes is reached: somebody else's will end
            sleep(0.02)
            continue
        if worker == 0:
            with contextlib.suppress(ProcessLookupError):  # it is gone already
                watched = os.pidfd_open(monitor)
                if os.getppid() == monitor and work(watched):
                    os._exit(0)
                os.close(watched)
        else:
            watched = os.pidfd_open(worker)
            poll = select.poll()
            poll.register(watched, select.POLLIN)
            poll.register(is_over, events)
            ready = dict(poll.poll())
            os.close(watched)
            if is_over in ready:
                os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
            if is_over in ready:
                return
        if took_over is not None:
            took_over()


def keep_listening(listener: Listener, tally: Tally, make: Callable[[], Steerer]) -> None:
    """Have calls answered until the last process under the filter is gone."""

    def work(_: int) -> bool:
        return _serve_alone(listener, tally, make())

    keep(work, listener.descriptor, 0, tally.count_takeover)


def _serve_alone(listener: Listener, tally: Tally, steerer: Steerer) -> bool:
    """Answer calls as :func:`serve` does, sooner: it waits in the ioctl itself instead of in poll(2) before it.

    Worker and program share a CPU, so all that happens between an answer and the next wait delays the program. The
    price is that the end of the monitor must come as a signal (PR_SET_PDEATHSIG), which interrupts the wait. One that
    comes just before it would not: so it is followed by others until it is heeded.

    Returns:
        True when nobody is left under the filter, False when the monitor is gone.
    """
    monitor = os.getppid()
    is_disturbed = False

    def disturb(*_: object) -> None:
        nonlocal is_disturbed
        is_disturbed = True
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)

    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.signal(signal.SIGUSR1, disturb)
    signal_when_parent_ends(signal.SIGUSR1)
    poll = select.poll()
    poll.register(listener.descriptor, select.POLLIN)
    try:
        _finish_left(listener, tally, steerer)
        wait = steerer.tick()
        while os.getppid() == monitor:
            if is_disturbed:  # the signal was somebody else's
                signal.setitimer(signal.ITIMER_REAL, 0)
                is_disturbed = False
            while not is_disturbed:
                if wait is not None and (wait := steerer.tick()) is not None and not poll.poll(wait * 1000 + 1):
                    continue
                # While a port is held its end must not be slept through, however usual the calls that come.
                if steerer.serve_usual() if wait is None else listener.receive():
                    _finish(listener, tally, steerer)
                    wait = steerer.tick()
                elif any(event & select.POLLHUP for _, event in poll.poll(0)):
                    return True
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (signal.SIGUSR1, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        signal_when_parent_ends(0)


def serve(
    listener: Listener, tally: Tally, steerer: Steerer | None, others: dict[int, Callable[[], bool]]
) -> int | None:
    """Answer calls, first the one that a predecessor left.

    Args:
        listener: where calls come from.
        tally: the memory shared with whoever takes over.
        steerer: sees to a call before it is answered; None answers at once.
        others: descriptors to watch as well, and what to call when one becomes readable; True ends this.

    Returns:
        The descriptor whose call said so; None when nobody is left under the filter.
    """
    poll = select.poll()
    poll.register(listener.descriptor, select.POLLIN)
    for descriptor in others:
        poll.register(descriptor, select.POLLIN)
    _finish_left(listener, tally, steerer)
    wait: float | None = None
    while True:
        for descriptor, event in poll.poll(None if wait is None else wait * 1000 + 1):
            if descriptor != listener.descriptor:
                if others[descriptor]():
                    return descriptor
            elif event & select.POLLIN:
                if listener.receive():
                    _finish(listener, tally, steerer)
            elif event & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                return None
        if steerer is not None:
            wait = steerer.tick()


def _finish_left(listener: Listener, tally: Tally, steerer: Steerer | None) -> None:
    """Answer the call that a killed predecessor left, if it left one."""
    if (call_id := listener.call_id) and listener.is_waiting():
        # A call that was the end of several workers is let go, or it would be the end of every one.
        _finish(listener, tally, steerer if tally.try_again(call_id) else None)


def _finish(listener: Listener, tally: Tally, steerer: Steerer | None) -> None:
    if steerer is not None:
        try:
            outcome = steerer.think()
        except Exception:  # whatever it is, the program must not wait for ever
            outcome = Outcome.UNSEEN
        tally.counts[outcome] += 1
    listener.answer()


def answer_all(listener: Listener, tally: Tally, watched: int) -> None:
    """Stand by until ``watched``, a pidfd of the only process that can guard, is readable; then let all calls run."""
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    poll.register(listener.descriptor, 0)
    if listener.descriptor not in dict(poll.poll()):
        serve(listener, tally, None, {})
