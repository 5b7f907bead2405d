"""The monitor: starts the processes that do a guard's work, and replaces those that are killed.

While a filter has no listener at all, every connect fails with ENOSYS; while a call was received and nobody answers
it, it blocks forever. So several processes hold the listener: *workers* answer, the *monitor* waits for the death of
a worker and starts another. If the monitor dies, one of the workers becomes the monitor and starts the others again.
Calls in hand lie in memory that all of them share (:mod:`tailbite.guards.program.shared_page`), so a successor
finishes them. All must be killed in the same instant to leave a program without a listener; then its connects fail
with ENOSYS.

Worker 0 is always there. A worker asks for another one when calls queue up, and that one ends when it has had nothing
to do for a while. A worker that is stopped (SIGSTOP) is continued.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Task", "Watch", "do_task"]

_ASK: Final = b"\0"  # signals arrive on the same pipe by their number, and none has the number 0

_RETRY_MS: Final = 20


@dataclass(frozen=True, slots=True)
class Watch:
    """A worker's view of its monitor.

    Attributes:
        monitor: the monitor's pid.
        pipe: the descriptor to write to.
    """

    monitor: int
    pipe: int

    def has_ended(self) -> bool:
        """Tell whether the monitor has ended."""
        return os.getppid() != self.monitor

    def ask_for_worker(self) -> None:
        """Ask the monitor for one more worker."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self.pipe, _ASK)


@dataclass(frozen=True, slots=True)
class Task:
    """Work that is done until an event, even if workers are killed meanwhile.

    Attributes:
        work: does the work; gets its worker's number and its view of the monitor. True says that the work is over,
            False that the monitor has ended.
        end: a descriptor that the monitor watches.
        end_events: the events of poll(2) there that end the work, besides POLLHUP.
        most_workers: at most so many workers at a time.
        take_lead: tells a process whose monitor has ended whether it is the one to become the monitor.
        slots_left: the numbers of further workers that must finish something, when a worker has become the monitor.
        after_takeover: called by a process that has just taken over from one that was killed.
        before_start: called in the monitor with a worker's number before that worker starts.
        program: a pidfd of the program; None if nobody needs to know when it ends.
        at_program_end: called in the monitor when the program has ended.
    """

    work: Callable[[int, Watch], bool]
    end: int
    end_events: int = 0
    most_workers: int = 1
    take_lead: Callable[[], bool] = lambda: True
    slots_left: Callable[[], list[int]] = list
    after_takeover: Callable[[], None] = lambda: None
    before_start: Callable[[int], None] = lambda _: None
    program: int | None = None
    at_program_end: Callable[[], None] = field(default=lambda: None)


def do_task(task: Task) -> None:
    """Be the monitor of a task until it is over; in a worker this never returns."""
    slots = [0]
    while task.take_lead():
        if _Monitor(task).run(slots):
            return
        task.after_takeover()
        slots = [0, *task.slots_left()]
    os._exit(0)


class _Monitor:
    def __init__(self, task: Task) -> None:
        self._task = task
        self._workers: dict[int, int] = {}  # pid: number
        self._is_program_over = False
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._poll.register(task.end, task.end_events)
        if task.program is not None:
            self._poll.register(task.program, select.POLLIN)

    def run(self, slots: list[int]) -> bool:
        """Start workers and watch them.

        Returns:
            True in the monitor: the task is over. False in a worker whose monitor has ended.
        """
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        while True:
            for slot in slots:
                self._task.before_start(slot)
            for slot in slots:
                if self._start_worker(slot):
                    return False
            missing = self._wait_for_work()
            if missing is None:
                self._end_workers()
                return True
            slots = missing

    def _start_worker(self, slot: int) -> bool:
        """Fork a worker; True in the worker when its monitor has ended, False in the monitor."""
        monitor = os.getpid()
        while True:
            try:
                pid = os.fork()
                break
            except OSError:  # the limit of processes is reached, or memory is short: that may change
                if self._task.end in dict(self._poll.poll(_RETRY_MS)):
                    return False
        if pid:
            self._workers[pid] = slot
            return False
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._wake)
        watch = Watch(monitor, self._woken)
        if not watch.has_ended() and self._task.work(slot, watch) and not watch.has_ended():
            os.kill(monitor, signal.SIGCONT)  # a stopped monitor would stay forever
            os._exit(0)
        os.close(self._woken)
        return True

    def _wait_for_work(self) -> list[int] | None:
        """Wait until workers have to be started, and return their numbers; None when the task is over."""
        while True:
            ready = dict(self._poll.poll())
            if self._task.end in ready:
                return None
            if self._task.program is not None and self._task.program in ready:
                self._poll.unregister(self._task.program)
                self._task.at_program_end()
            if self._wake not in ready:
                continue
            woken_by = set(os.read(self._wake, 512))
            slots = self._reap_workers() if signal.SIGCHLD in woken_by else []
            if ord(_ASK) in woken_by and not slots:
                slots = self._free_slots()[:1]
            if slots:
                return slots

    def _free_slots(self) -> list[int]:
        return sorted(set(range(self._task.most_workers)) - set(self._workers.values()))

    def _reap_workers(self) -> list[int]:
        """Wait for workers that have ended, and continue those that were stopped; return the numbers to replace."""
        slots = []
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                break
            if os.WIFSTOPPED(status):
                os.kill(pid, signal.SIGCONT)
                continue
            slot = self._workers.pop(pid)
            if slot == 0 or os.WIFSIGNALED(status):
                self._task.after_takeover()
                slots.append(slot)
        return slots

    def _end_workers(self) -> None:
        for pid in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self._workers:
            os.waitpid(pid, 0)
