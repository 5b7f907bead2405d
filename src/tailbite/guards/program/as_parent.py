"""The supervisor above the program: where only an ancestor may look into it, or when its end is to be reported.

::

    tailbite run (front) ──> supervisor ──> the program and all its descendants
                                  └──fork──> stand-by

The front is what the caller sees: it passes signals on, stops when the program stops, and ends as it ends. The
supervisor has a session of its own, so no terminal stops it; orphaned descendants become its children
(PR_SET_CHILD_SUBREAPER), so it stays above daemons as well. If it is killed nobody else is an ancestor: then the
stand-by lets every call run unguarded, and the front, next in the line of ancestors, still reports the end.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tailbite.guards.program.helpers import answer_all, detach, serve
from tailbite.guards.program.run import Order, Report, enter, execute, steerer_maker, unguarded
from tailbite.guards.program.shared_page import Tally
from tailbite.kernel.prctl import become_subreaper
from tailbite.kernel.seccomp import Listener

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.guards.program.mechanism import Choice

__all__ = ["mirror", "run_above"]

_ALL = signal.valid_signals()
_NEWS = struct.Struct("=ii")  # the program's pid, and what wait(2) said of it: -1 for "it has started"
_STARTED = -1
_SI_USER, _SI_QUEUE, _SI_TKILL = 0, -1, -6  # sigaction(2): sent by a process, not by the kernel


def run_above(order: Order, choice: Choice) -> Report:
    """Run the program below a supervisor, pass signals on, and return when it has ended."""
    tally = Tally()
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, _ALL)
    become_subreaper()
    ours, theirs = socket.socketpair()
    front = os.getpid()
    try:
        supervisor = os.fork()
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        unguarded(order, f"no process can be started for its guard ({error.strerror})")
        execute(order)
    if supervisor == 0:
        ours.close()
        try:
            _supervise(theirs, front, mask, tally, order, choice)
        finally:
            os._exit(0)
    theirs.close()
    status = _Front(ours, supervisor).wait()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return Report(status, tally.is_guarded, tally.by_name())


class _Front:
    """Waits for the program: by the supervisor's news, and by itself once that is gone."""

    def __init__(self, news: socket.socket, supervisor: int) -> None:
        news.setblocking(False)
        self._news = news
        self._supervisor = supervisor
        self._program = 0
        self._status: int | None = None
        self._lost = False
        self._early: list[int] = []

    def wait(self) -> int:
        # Every signal is blocked, so none is lost between a look and the wait for the next.
        while True:
            self._look()
            if self._status is not None:
                return self._status
            info = signal.sigwaitinfo(_ALL)
            number = info.si_signo
            if number == signal.SIGCHLD:
                continue
            if not self._program:
                self._early.append(number)
                continue
            # What a terminal sends reaches the program by itself. So does a shell's SIGCONT, which goes to the whole
            # job; one that went to us alone leaves the program stopped.
            if number == signal.SIGCONT:
                is_meant = _is_stopped(self._program)
            else:
                is_meant = info.si_code in (_SI_USER, _SI_QUEUE, _SI_TKILL)
            if is_meant:
                self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._program, number)

    def _look(self) -> None:
        while True:
            try:
                message = self._news.recv(_NEWS.size)
            except BlockingIOError:
                break
            if len(message) < _NEWS.size:
                break
            self._program, status = _NEWS.unpack(message)
            if status != _STARTED:
                self._heed(status)
                continue
            while self._early:  # a terminal's too: there may have been no program yet that it could reach
                self._pass_on(self._early.pop(0))
        while self._status is None:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                if self._lost:
                    self._status = signal.SIGKILL  # it ended just when nobody could look
                return
            if pid == 0:
                return
            if pid == self._program:
                self._heed(status)
            elif pid == self._supervisor and not os.WIFSTOPPED(status):
                self._lost = True

    def _heed(self, status: int) -> None:
        if not os.WIFSTOPPED(status):
            self._status = status
            return
        # Stop as the program stopped, so that the shell sees its job stopped.
        number = os.WSTOPSIG(status)
        if number in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
            signal.pthread_sigmask(signal.SIG_BLOCK, (number,))
        else:
            os.kill(os.getpid(), signal.SIGSTOP)


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] == b"T"
    except OSError:
        return False


def mirror(status: int | None) -> int:
    """Return the program's exit status, or die of the signal it died of."""
    if status is None:
        return 0
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # one core is enough
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
    os.kill(os.getpid(), number)
    return 128 + number


def _supervise(
    news: socket.socket, front: int, mask: set[int | signal.Signals], tally: Tally, order: Order, choice: Choice
) -> None:
    """The supervisor's whole life."""
    make = steerer_maker(order, choice)
    become_subreaper()
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        _become(ours, news, theirs, mask, tally, order)
    theirs.close()
    watched_front = os.pidfd_open(front)
    wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    detach(ours.fileno(), news.fileno(), watched_front, wake, woken, *((2,) if order.is_verbose else ()))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    family = _Family(child, front, news)
    family.tell(_STARTED)
    try:
        ours.send(b"+")
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    except OSError:
        descriptors = []
    others: dict[int, Callable[[], bool]] = {wake: lambda: family.reap(wake), watched_front: family.front_is_gone}
    if not descriptors:
        ours.close()
        family.wait_without_guard(others)
        return
    listener = Listener(descriptors[0], tally.memory)
    listener.wake_synchronously()
    family.stand_by = lambda: _stand_by(listener, tally)
    family.start_stand_by()
    ours.send(b"+")
    ours.close()
    steerer = make(listener, tally)
    while (ended := serve(listener, tally, steerer, others)) is not None:
        del others[ended]


def _become(
    helper: socket.socket,
    news: socket.socket,
    theirs: socket.socket,
    mask: set[int | signal.Signals],
    tally: Tally,
    order: Order,
) -> NoReturn:
    helper.close()
    news.close()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        tally.is_guarded = enter(order, theirs)
        execute(order)
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    finally:
        os._exit(1)


def _stand_by(listener: Listener, tally: Tally) -> int:
    supervisor = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            signal.set_wakeup_fd(-1)
            watched = os.pidfd_open(supervisor)
            detach(listener.descriptor, watched)
            answer_all(listener, tally, watched)
        finally:
            os._exit(0)
    return child


class _Family:
    """The supervisor's children: the program, orphans of its, and the stand-by."""

    def __init__(self, child: int, front: int, news: socket.socket) -> None:
        self._child = child
        self._front = front
        self._news = news
        self._is_over = False
        self._helper = 0
        self.stand_by: Callable[[], int] = lambda: 0

    def tell(self, status: int) -> None:
        with contextlib.suppress(OSError):
            self._news.send(_NEWS.pack(self._child, status))
            os.kill(self._front, signal.SIGCHLD)

    def start_stand_by(self) -> None:
        self._helper = self.stand_by()

    def reap(self, wake: int) -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 512)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return False
            if pid == 0:
                return False
            if pid == self._child and not self._is_over:
                self._is_over = not os.WIFSTOPPED(status)
                self.tell(status)
            elif pid == self._helper and not os.WIFSTOPPED(status):
                self.start_stand_by()

    def front_is_gone(self) -> bool:
        """Have the program die with the process its caller knows as it."""
        if not self._is_over:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
        return True

    def wait_without_guard(self, others: dict[int, Callable[[], bool]]) -> None:
        poll = select.poll()
        for descriptor in others:
            poll.register(descriptor, select.POLLIN)
        while others and not self._is_over:
            for descriptor, _ in poll.poll():
                if others[descriptor]():
                    poll.unregister(descriptor)
                    del others[descriptor]
