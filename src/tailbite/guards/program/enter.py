"""Entering the filter, and the life of the helper that answers its calls."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from typing import TYPE_CHECKING

from tailbite.guards.program.helpers import HELPER_ENDED, detach, hears_go, let_go_of_stderr
from tailbite.guards.program.mechanism import NAMES_PORTS_INSTEAD
from tailbite.guards.program.monitor import Task, do_task
from tailbite.guards.program.order import refuse_or_go_unguarded, write_line
from tailbite.guards.program.serving import serve_blocking, serve_polling
from tailbite.guards.program.shared_page import MOST_WORKERS
from tailbite.guards.program.steerer import GUARDED, IS_GUARDED, Steerer
from tailbite.kernel import seccomp
from tailbite.kernel.libc import last_error, libc

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from tailbite.guards.program.mechanism import Choice
    from tailbite.guards.program.monitor import Watch
    from tailbite.guards.program.order import Order
    from tailbite.guards.program.shared_page import SharedPage, Slot

    MakeSteerer: TypeAlias = Callable[[seccomp.Listener, Slot, Callable[[], None]], Steerer]

__all__ = ["enter_filter", "steerer_maker", "supervise_beside"]


def steerer_maker(order: Order, choice: Choice) -> MakeSteerer:
    """Return the function that makes a worker's steerer from the listener, the worker's slot, and a
    function that asks for another worker.

    It is called before anything is forked, so that all modules are loaded then: later, the folder or the rights may
    have changed.
    """
    abi = seccomp.ABIS[os.uname().machine]
    report = write_line if order.is_verbose else None
    return lambda listener, slot, ask: Steerer(
        abi, listener, slot, copies=choice.copies, steers=choice.steers, report=report, ask=ask
    )


def enter_filter(order: Order, helper: socket.socket) -> bool:
    """Put this process under the filter and hand its listener to the helper; tell whether it is guarded now.

    Raises:
        SystemExit: the program has to be guarded and cannot be, or its guard ended when there was no way back.
    """
    abi = seccomp.ABIS[os.uname().machine]
    with helper:
        if not hears_go(helper):
            # Once the filter is on there is no way back, so the helper is asked before.
            refuse_or_go_unguarded(order, HELPER_ENDED)
            return False
        try:
            listener, no_new_privs = seccomp.install(abi, seccomp.call_filter(abi))
        except OSError as error:
            return _explain_refusal(order, error)
        with contextlib.suppress(OSError):
            socket.send_fds(helper, [b"L"], [listener])
        is_up = hears_go(helper)
        os.close(listener)
    if not is_up:
        # The filter cannot be removed, and without a listener every connect fails: better not to start at all.
        write_line(f"the guard of {order.command[0]} was ended from outside before it was ready; nothing was started")
        sys.exit(order.status_unguarded)
    if order.is_verbose and no_new_privs:
        write_line("without CAP_SYS_ADMIN a guarded program gains no privileges: sudo and su inside it will refuse")
    return True


def _explain_refusal(order: Order, error: OSError) -> bool:
    """Report why the filter was refused; tell whether the program is guarded all the same."""
    if error.errno != errno.EBUSY:
        refuse_or_go_unguarded(order, f"the kernel refuses the filter ({error.strerror}); {NAMES_PORTS_INSTEAD}")
        return False
    if _is_guarded_already():
        if order.is_verbose:
            write_line("guarded by the `tailbite run` around this one")
        return True
    refuse_or_go_unguarded(
        order,
        "another supervisor listens to its system calls already, and there can be only one; " + NAMES_PORTS_INSTEAD,
    )
    return False


def _is_guarded_already() -> bool:
    """Ask a `tailbite run` around this one whether it guards this process; the kernel alone would say EBADF."""
    return libc().connect(-1, IS_GUARDED, len(IS_GUARDED)) != 0 and last_error("connect").errno == GUARDED


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
    keeps_stderr = order.is_verbose and program is not None
    detach(end.fileno(), page.descriptor, *((2, program) if keeps_stderr and program is not None else ()))
    end.send(b"+")
    _, descriptors, _, _ = socket.recv_fds(end, 1, 1)
    if not descriptors:
        return  # no filter, no listener
    listener = descriptors[0]
    seccomp.Listener(listener, page.slots[0].call).wake_synchronously()
    end.send(b"+")
    end.close()
    watched = program if keeps_stderr else None

    def work(number: int, watch: Watch) -> bool:
        slot = page.take_slot(number)
        try:
            here = seccomp.Listener(listener, slot.call)
            steerer = make(here, slot, watch.ask_for_worker)
            if watched is None:
                return serve_blocking(here, slot, steerer, watch)
            return _serve_verbosely(here, slot, steerer, watch, watched)
        finally:
            page.free_slot(number)

    def slots_left() -> list[int]:
        """Return the slots that workers of an ended monitor use still, or were killed in with a call in hand."""
        used = page.used_slots()
        return [slot.number for slot in page.slots[1:] if slot.number in used or _has_call(listener, slot)]

    do_task(
        Task(
            work,
            listener,
            most_workers=1 if watched is not None else min(os.cpu_count() or 1, MOST_WORKERS),
            take_lead=page.take_lead,
            slots_left=slots_left,
            after_takeover=page.count_takeover,
            program=watched,
            at_program_end=let_go_of_stderr,
        )
    )


def _has_call(listener: int, slot: Slot) -> bool:
    return bool(slot.call_id) and seccomp.Listener(listener, slot.call).is_waiting()


def _serve_verbosely(listener: seccomp.Listener, slot: Slot, steerer: Steerer, watch: Watch, program: int) -> bool:
    """Answer calls in a worker that writes to the program's stderr, until nobody is left or the monitor has ended."""
    try:
        watched = os.pidfd_open(watch.monitor)
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
