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
        try:
            watched = open_process(os.getpid())  # before the fork: this process may be killed right after it
        except OSError:
            return 0
        try:
            child = os.fork()
        except OSError:
            child = 0
        else:
            if child == 0:
                self._stand_by(watched)
        os.close(watched)
        return child

    def _stand_by(self, watched: int) -> None:
        try:
            signal.set_wakeup_fd(-1)
            deposit = self.page.slots[0].deposit
            detach(self.listener.descriptor, watched, *self.kept, *(() if deposit is None else deposit.descriptors))
            poll = select.poll()
            poll.register(watched, select.POLLIN)
            poll.register(self.listener.descriptor, 0)
            if self.listener.descriptor not in dict(poll.poll()):
                os.close(watched)
                self._succeed()
        finally:
            os._exit(0)

    def _succeed(self) -> None:
        slot = self.page.slots[0]
        self.page.record_takeover()
        hold_calls_left(slot)
        self.announce()
        wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        self.start_stand_by()

        def replace_stand_by() -> bool:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 512)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    self.start_stand_by()
            return False

        steerer = self.make(self.listener, slot, lambda: None)
        steerer.report = None  # it writes to a stderr that is not the program's
        serve_polling(self.listener, slot, steerer, {wake: replace_stand_by})
