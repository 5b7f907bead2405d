"""The supervisor above the program: used when Yama allows only an ancestor to trace it, or to report its exit status.

::

    tailbite run (front) ──> supervisor ──> the program and all its descendants
                                  └──fork──> stand-by

The front is the process that the caller started: it passes signals on, stops when the program stops, and ends as the
program ends. The supervisor has a session of its own, so no terminal stops it, and a supervisor that is stopped is
continued by the front. Orphaned descendants of the program become the supervisor's children
(PR_SET_CHILD_SUBREAPER), so it stays above daemons as well. If it is killed, the stand-by takes its place
(:mod:`tailbite.guards.program.stand_by`), and the front, next in the line of ancestors, still reports the end.
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

from tailbite.guards.program.enter import enter_filter, steerer_maker
from tailbite.guards.program.helpers import HELPER_ENDED, detach, let_go_of_stderr, why_not_started
from tailbite.guards.program.order import Order, Report, become_program, refuse_or_go_unguarded
from tailbite.guards.program.serving import serve_polling
from tailbite.guards.program.shared_page import SharedPage
from tailbite.guards.program.stand_by import Succession
from tailbite.kernel.pidfd import open_process
from tailbite.kernel.prctl import become_subreaper
from tailbite.kernel.seccomp import Listener

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.guards.program.enter import MakeSteerer
    from tailbite.guards.program.mechanism import Choice

__all__ = ["mirror", "run_above"]

_ALL = signal.valid_signals()
_NEWS = struct.Struct("=ii")
"""The program's pid and what wait(2) said of it, or _STARTED; or a new supervisor's pid and _TAKEN_OVER."""

_STARTED = -1
_TAKEN_OVER = -2
_SI_USER, _SI_QUEUE, _SI_TKILL = 0, -1, -6  # sigaction(2): sent by a process, not by the kernel
_TIMERS = (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF)
"""Sent by the kernel to the front alone: the timer of a caller that did alarm(5) outlives execve(2), not fork(2)."""


def run_above(order: Order, choice: Choice, before_exec: Callable[[str], None]) -> Report:
    """Run the program below a supervisor, pass signals on, and return when it has ended.

    Args:
        order: the program.
        choice: the mechanism that guards it.
        before_exec: called with a reason if no supervisor can be started: then this process becomes the program.
    """
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, _ALL)
    become_subreaper()
    front = os.getpid()
    try:
        page = SharedPage()
        (ours, theirs), ends = socket.socketpair(), socket.socketpair()
        supervisor = os.fork()
    except (OSError, MemoryError) as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        before_exec(refuse_or_go_unguarded(order, why_not_started(error)))
        become_program(order)
    if supervisor == 0:
        ours.close()
        try:
            with page.leaving_reason():
                _supervise(theirs, ends, front, mask, page, order, choice)
        finally:
            os._exit(0)
    for end in (theirs, *ends):
        end.close()
    status = _Front(ours, supervisor).wait()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return Report(status, "" if page.is_guarded else page.reason or HELPER_ENDED, page.counts_by_name())


class _Front:
    """The wait for the program: by the supervisor's news, and by waitpid(2) once the supervisor is gone."""

    def __init__(self, news: socket.socket, supervisor: int) -> None:
        news.setblocking(False)
        self._news = news
        self._supervisor = supervisor
        self._program = 0
        self._status: int | None = None
        self._lost = False
        self._early: list[int] = []

    def wait(self) -> int:
        # Every signal is blocked, so none is lost between reading the news and the wait for the next signal.
        while True:
            self._read_news()
            self._reap()
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
                is_meant = info.si_code in (_SI_USER, _SI_QUEUE, _SI_TKILL) or number in _TIMERS
            if is_meant:
                self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._program, number)

    def _read_news(self) -> None:
        while True:
            try:
                message = self._news.recv(_NEWS.size)
            except BlockingIOError:
                return
            if len(message) < _NEWS.size:
                return
            pid, status = _NEWS.unpack(message)
            if status == _TAKEN_OVER:
                self._supervisor = pid
                continue
            self._program = pid
            if status != _STARTED:
                self._follow(status)
                continue
            while self._early:  # a terminal's too: there may have been no program yet that it could reach
                self._pass_on(self._early.pop(0))

    def _reap(self) -> None:
        while self._status is None:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                self._read_news()  # sent since they were read, by a supervisor that ended then
                if self._lost and self._status is None:
                    self._status = signal.SIGKILL  # it ended just when nobody could report it
                return
            if pid == 0:
                return
            if pid not in (self._program, self._supervisor):
                self._read_news()  # it may have taken over since they were read
            if pid == self._program:
                self._follow(status)
            elif pid == self._supervisor and os.WIFSTOPPED(status):
                os.kill(pid, signal.SIGCONT)  # every connect of the program waits for it
            elif pid == self._supervisor:
                self._lost = True

    def _follow(self, status: int) -> None:
        """End or stop as the program did."""
        if not os.WIFSTOPPED(status):
            self._status = status
            return
        # Stop as the program stopped, so that the shell sees its job stopped.
        number = os.WSTOPSIG(status)
        if number in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(number, signal.SIG_DFL)
            # The signal is blocked, so it stays pending; this process stops while it is unblocked for a moment.
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
    news: socket.socket,
    ends: tuple[socket.socket, socket.socket],
    front: int,
    mask: set[int | signal.Signals],
    page: SharedPage,
    order: Order,
    choice: Choice,
) -> None:
    """Live the whole life of the supervisor; ``ends`` are its and the program's."""
    make = steerer_maker(order, choice)
    become_subreaper()
    ours, theirs = ends
    child = os.fork()
    if child == 0:
        _become(ours, news, theirs, mask, page, order, choice)
    theirs.close()
    family = _Family(child, front, news)
    # Before anything that may fail: the front reports the status of a program that it knows.
    family.send_news(child, _STARTED)
    watched_front = open_process(front)
    wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    detach(ours.fileno(), news.fileno(), watched_front, wake, woken, *((2,) if order.is_verbose else ()))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    family.reap(wake)  # a signal that the front passed on may have ended the program before SIGCHLD was handled
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
    listener = Listener(descriptors[0], page.slots[0].call)
    listener.wake_synchronously()
    _begin_stand_by(family, listener, page, make)
    ours.send(b"+")
    ours.close()
    steerer = make(listener, page.slots[0], lambda: None)

    def program_ended() -> None:
        if order.is_verbose:
            steerer.report = None
            let_go_of_stderr()

    family.when_over(program_ended)
    while (ended := serve_polling(listener, page.slots[0], steerer, others)) is not None:
        del others[ended]


def _begin_stand_by(family: _Family, listener: Listener, page: SharedPage, make: MakeSteerer) -> None:
    page.open_deposits(1)

    def announce() -> None:
        family.send_news(os.getpid(), _TAKEN_OVER)

    family.begin_stand_by(Succession(listener, page, make, announce, family.kept).start_stand_by)


def _become(
    helper: socket.socket,
    news: socket.socket,
    theirs: socket.socket,
    mask: set[int | signal.Signals],
    page: SharedPage,
    order: Order,
    choice: Choice,
) -> NoReturn:
    helper.close()
    news.close()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        page.reason = enter_filter(order, choice, theirs, page)
        page.is_guarded = not page.reason
        become_program(order)
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    finally:
        os._exit(1)


class _Family:
    """The supervisor's children: the program, orphaned descendants of the program, and the stand-by."""

    def __init__(self, child: int, front: int, news: socket.socket) -> None:
        self._child = child
        self._front = front
        self._news = news
        self.is_over = False
        self._helper = 0
        self._at_program_end: Callable[[], None] = lambda: None
        self._stand_by: Callable[[], int] = lambda: 0

    @property
    def kept(self) -> tuple[int, ...]:
        """The descriptors that :meth:`send_news` needs."""
        return (self._news.fileno(),)

    def send_news(self, pid: int, status: int) -> None:
        with contextlib.suppress(OSError):
            self._news.send(_NEWS.pack(pid, status))
            os.kill(self._front, signal.SIGCHLD)

    def begin_stand_by(self, start: Callable[[], int]) -> None:
        """Start the stand-by, and again whenever it ends; ``start`` returns its pid, or 0."""
        self._stand_by = start
        self._helper = start()

    def when_over(self, act: Callable[[], None]) -> None:
        """Act when the program has ended; at once if it has."""
        self._at_program_end = act
        if self.is_over:
            act()

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
            if pid == self._child and not self.is_over:
                self.is_over = not os.WIFSTOPPED(status)
                self.send_news(pid, status)
                if self.is_over:
                    self._at_program_end()
            elif pid == self._helper and not os.WIFSTOPPED(status):
                self._helper = self._stand_by()

    def front_is_gone(self) -> bool:
        """Have the program die with the process its caller knows as it."""
        if not self.is_over:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
        return True

    def wait_without_guard(self, others: dict[int, Callable[[], bool]]) -> None:
        poll = select.poll()
        for descriptor in others:
            poll.register(descriptor, select.POLLIN)
        while others and not self.is_over:
            for descriptor, _ in poll.poll():
                if others[descriptor]():
                    poll.unregister(descriptor)
                    del others[descriptor]
