"""The process that takes the place of a supervisor above the program when that is killed.

It is not an ancestor of the program. Where Yama lets only ancestors trace a process, it can inspect no call: it lets
all of them run unguarded, so that none hangs. Elsewhere it guards the program as the supervisor did. Each one has
started the next one before it answers its first call.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.guards.program.helpers import detach
from tailbite.guards.program.port_hold import hold_calls_left
from tailbite.guards.program.serving import serve_polling
from tailbite.kernel.pidfd import open_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.guards.program.enter import MakeSteerer
    from tailbite.guards.program.shared_page import SharedPage
    from tailbite.kernel.seccomp import Listener

__all__ = ["Succession"]


@dataclass(frozen=True, slots=True)
class Succession:
    """The supervisor's tools, which pass from one process to the next.

    Attributes:
        listener: the listener that calls come from.
        page: the memory that all of them share; its first slot is the supervisor's.
        make: makes the steerer.
        announce: called in a process that has become the supervisor.
        kept: the descriptors that ``announce`` needs.
    """

    listener: Listener
    page: SharedPage
    make: MakeSteerer
    announce: Callable[[], None]
    kept: tuple[int, ...]

    def start_stand_by(self) -> int:
        """Start the process that takes this one's place when this one is killed.

        Returns:
            Its pid; 0 if no process can be started.
        """
        pid, watched = self._fork()
        if watched is None:
            return pid
        try:
            while watched is not None:
                watched = self._stand_by(watched)
        finally:
            os._exit(0)

    def _fork(self) -> tuple[int, int | None]:
        """Fork; return the child's pid (0 without one) and None, or in the child 0 and a pidfd of its parent."""
        try:
            parent = open_process(os.getpid())  # before the fork: this process may be killed right after it
        except OSError:
            return 0, None
        try:
            pid = os.fork()
        except OSError:
            pid = 0
        else:
            if pid == 0:
                return 0, parent
        os.close(parent)
        return pid, None

    def _stand_by(self, watched: int) -> int | None:
        """Take the place of the watched process when it ends.

        Returns:
            None when nobody is left under the filter. In a process that was forked meanwhile, its parent's pidfd: so
            it returns, and the stack of frames does not grow from one generation to the next.
        """
        signal.set_wakeup_fd(-1)
        deposit = self.page.slots[0].deposit
        detach(self.listener.descriptor, watched, *self.kept, *(() if deposit is None else deposit.descriptors))
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        poll.register(self.listener.descriptor, 0)
        if self.listener.descriptor in dict(poll.poll()):
            return None
        os.close(watched)
        return self._succeed()

    def _succeed(self) -> int | None:
        slot = self.page.slots[0]
        self.page.record_takeover()
        hold_calls_left(slot)
        self.announce()
        wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        _, parent = self._fork()
        if parent is not None:
            return parent

        def replace_stand_by() -> bool:
            nonlocal parent
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 512)
            with contextlib.suppress(ChildProcessError):
                while parent is None and os.waitpid(-1, os.WNOHANG)[0]:
                    _, parent = self._fork()
            return parent is not None

        steerer = self.make(self.listener, slot, lambda: None)
        steerer.report = None  # it writes to a stderr that is not the program's
        serve_polling(self.listener, slot, steerer, {wake: replace_stand_by})
        return parent
