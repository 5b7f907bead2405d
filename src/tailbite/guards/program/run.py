"""Any program, guarded while it runs: this process becomes the program only when its guard is ready.

The common case, the supervisor *beside* the program::

    tailbite run ──fork─fork──> monitor ──fork──> workers       (monitor, serving, steerer)
         │ installs the filter, sends its listener ─────^ answer every connect call
         └ exec: the program, with the pid, parent, terminal and descriptors it was called with

Where Yama allows only an ancestor to trace a process, or when the program's end has to be reported, the supervisor is
*above* it (as_parent).
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from tailbite.guards.program.exec import occupy_standard_descriptors
from tailbite.guards.program.mechanism import Choice, Mechanism, Place
from tailbite.guards.program.order import Order, Report, become_program, refuse_or_go_unguarded

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["run_guarded"]


def run_guarded(order: Order, choice: Choice, before_exec: Callable[[str], None] = lambda _: None) -> Report:
    """Run the program under the chosen guard; returns only when the supervisor is above it.

    Args:
        order: the program, and how to run it.
        choice: the mechanism that guards it.
        before_exec: called when this process is about to become the program, with the reason why that is not guarded;
            the reason is empty if it is.

    Raises:
        SystemExit: the program could not be started.
    """
    occupy_standard_descriptors()
    is_watched = choice.mechanism in (Mechanism.STEER, Mechanism.HOLD)
    if is_watched and choice.place is Place.ABOVE:
        from tailbite.guards.program.as_parent import run_above

        return run_above(order, choice, before_exec)
    if is_watched:
        reason = _guard_beside(order, choice)
    else:
        from tailbite.guards.program.named_ports import hold_named_ports

        reason = hold_named_ports(order, choice)
    before_exec(reason)
    return become_program(order)


def _guard_beside(order: Order, choice: Choice) -> str:
    # Everything a helper needs is loaded before it is forked: later, the folder or the rights may have changed.
    from tailbite.guards.program.beside import supervise_beside
    from tailbite.guards.program.enter import enter_filter, steerer_maker
    from tailbite.guards.program.helpers import spawn_beside, why_not_started
    from tailbite.guards.program.shared_page import SharedPage
    from tailbite.kernel.pidfd import open_process

    make = steerer_maker(order, choice)
    program = None
    if order.is_verbose:
        with contextlib.suppress(OSError):  # ENOSYS before Linux 5.3
            program = open_process(os.getpid())
    try:
        page = SharedPage()

        def work(end: socket.socket) -> None:
            with page.leaving_reason():
                supervise_beside(end, page, order, make, program)

        helper = spawn_beside(work)
    except (OSError, MemoryError) as error:
        return refuse_or_go_unguarded(order, why_not_started(error))
    finally:
        if program is not None:
            os.close(program)
    return enter_filter(order, choice, helper, page)
