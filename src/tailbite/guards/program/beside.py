"""The life of the helper beside the program: it takes the listener, and has workers answer the calls."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from tailbite.guards.program.helpers import detach, let_go_of_stderr
from tailbite.guards.program.monitor import Task, do_task
from tailbite.guards.program.port_hold import hold_calls_left
from tailbite.guards.program.serving import serve_blocking, serve_polling
from tailbite.guards.program.shared_page import MOST_WORKERS
from tailbite.kernel import seccomp
from tailbite.kernel.pidfd import open_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.guards.program.enter import MakeSteerer
    from tailbite.guards.program.monitor import Watch
    from tailbite.guards.program.order import Order
    from tailbite.guards.program.shared_page import SharedPage, WorkerSlot
    from tailbite.guards.program.steerer import Steerer

__all__ = ["supervise_beside"]

_STDERR = 2


def supervise_beside(
    end: socket.socket, page: SharedPage, order: Order, make: MakeSteerer, program: int | None
) -> None:
    """Live the whole life of the helper beside the program.

    Args:
        end: the socket to the process that becomes the program.
        page: the memory that helpers share.
        order: the program.
        make: makes a worker's steerer.
        program: a pidfd of the program, needed only if the order is verbose.
    """
    watched = program if order.is_verbose else None
    detach(end.fileno(), page.descriptor, *(() if watched is None else (_STDERR, watched)))
    end.send(b"+")
    _, descriptors, _, _ = socket.recv_fds(end, 1, 1)
    if not descriptors:
        return  # no filter, no listener
    seccomp.Listener(descriptors[0], page.slots[0].call).wake_synchronously()
    end.send(b"+")
    end.close()
    most_workers = 1 if watched is not None else _most_workers()
    page.open_deposits(most_workers)
    workers = _Workers(descriptors[0], page, make, watched)
    do_task(
        Task(
            workers.work,
            descriptors[0],
            most_workers=most_workers,
            take_lead=page.take_lead,
            slots_left=workers.slots_left,
            after_takeover=page.record_takeover,
            before_start=workers.hold_calls_left,
            program=watched,
            at_program_end=let_go_of_stderr,
        )
    )


class _Workers:
    """The work of one worker, and the slots of others.

    Args:
        listener: the descriptor that calls come from.
        page: the memory that helpers share.
        make: makes a worker's steerer.
        program: a pidfd of the program whose stderr workers write to; None if they do not.
    """

    def __init__(self, listener: int, page: SharedPage, make: MakeSteerer, program: int | None) -> None:
        self._listener = listener
        self._page = page
        self._make = make
        self._program = program

    def work(self, number: int, watch: Watch) -> bool:
        """Answer calls until nobody is left under the filter (True) or the monitor has ended (False)."""
        slot = self._page.take_slot(number)
        try:
            listener = seccomp.Listener(self._listener, slot.call)
            steerer = self._make(listener, slot, watch.ask_for_worker)
            if self._program is None:
                is_over = serve_blocking(listener, slot, steerer, watch)
            else:
                is_over = _serve_verbosely(listener, slot, steerer, watch, self._program)
            if not is_over:
                steerer.hold_always()  # until another worker inspects the calls
            return is_over
        finally:
            self._page.free_slot(number)

    def hold_calls_left(self, number: int) -> None:
        """Hold the ports of the calls that a killed worker left, unless another process has its slot."""
        if (slot := self._page.try_slot(number)) is not None:
            hold_calls_left(slot)
            self._page.free_slot(number)

    def slots_left(self) -> list[int]:
        """Return the slots that workers of an ended monitor use still, or were killed in with calls not over."""
        used = self._page.used_slots()
        return [slot.number for slot in self._page.slots[1:] if slot.number in used or self._has_call(slot)]

    def _has_call(self, slot: WorkerSlot) -> bool:
        return any(slot.pending) or (bool(slot.call_id) and seccomp.Listener(self._listener, slot.call).is_waiting())


def _most_workers() -> int:
    """Return how many workers help: one for every two CPUs that the program may use.

    A worker handles some 50,000 calls a second. Every call wakes all workers that wait (recv_wait_event in
    kernel/seccomp.c does not wait exclusively), so on two CPUs a second worker lowers the rate by a tenth
    (bench/guards.py).
    """
    return max(1, min(len(os.sched_getaffinity(0)) // 2, MOST_WORKERS))


def _serve_verbosely(
    listener: seccomp.Listener, slot: WorkerSlot, steerer: Steerer, watch: Watch, program: int
) -> bool:
    """Answer calls in a worker that writes to the program's stderr, until nobody is left or the monitor has ended."""
    try:
        watched = open_process(watch.monitor)
    except ProcessLookupError:
        return False
    others: dict[int, Callable[[], bool]] = {watched: lambda: True}

    def program_ended() -> bool:
        del others[program]
        steerer.report = None
        let_go_of_stderr()
        return False

    others[program] = program_ended
    ended = serve_polling(listener, slot, steerer, others)
    os.close(watched)
    return ended is None
