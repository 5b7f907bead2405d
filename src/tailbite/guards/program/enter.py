"""The entry into the filter; its listener goes to a helper that answers the calls."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from typing import TYPE_CHECKING

from tailbite.guards.program.helpers import HELPER_ENDED, hears_go
from tailbite.guards.program.mechanism import what_works_instead
from tailbite.guards.program.order import refuse_or_go_unguarded, write_line
from tailbite.guards.program.steerer import GUARDED, IS_GUARDED, Steerer
from tailbite.kernel import seccomp
from tailbite.kernel.libc import architecture, last_error, libc

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from tailbite.guards.program.mechanism import Choice
    from tailbite.guards.program.order import Order
    from tailbite.guards.program.shared_page import SharedPage, WorkerSlot

    MakeSteerer: TypeAlias = Callable[[seccomp.Listener, WorkerSlot, Callable[[], None]], Steerer]

__all__ = ["MakeSteerer", "enter_filter", "steerer_maker"]


def steerer_maker(order: Order, choice: Choice) -> MakeSteerer:
    """Return the function that makes a worker's steerer from the listener, the worker's slot, and a
    function that asks for another worker.

    It is called before anything is forked, so that all modules are loaded then: later, the folder or the rights may
    have changed.
    """
    abi = seccomp.ABIS[architecture()]
    report = write_line if order.is_verbose else None
    return lambda listener, slot, ask: Steerer(
        abi, listener, slot, copies=choice.copies, steers=choice.steers, report=report, ask=ask
    )


def enter_filter(order: Order, choice: Choice, helper: socket.socket, page: SharedPage) -> str:
    """Put this process under the filter and hand its listener to the helper.

    Args:
        order: the program.
        choice: the mechanism that guards it.
        helper: the socket to the helper.
        page: the memory in which the helper leaves the reason if it cannot start.

    Returns:
        Why this process is not guarded; nothing if it is.

    Raises:
        SystemExit: the program has to be guarded and cannot be, or its guard ended when there was no way back.
    """
    abi = seccomp.ABIS[architecture()]
    with helper:
        if not hears_go(helper):
            # Once the filter is on there is no way back, so the helper is asked before.
            return refuse_or_go_unguarded(order, page.reason or HELPER_ENDED)
        try:
            listener, no_new_privs = seccomp.install(
                abi, seccomp.call_filter(abi, reports_port_ranges=not choice.copies)
            )
        except OSError as error:
            return _explain_refusal(order, error)
        with contextlib.suppress(OSError):
            socket.send_fds(helper, [b"L"], [listener])
        is_up = hears_go(helper)
        os.close(listener)
    if not is_up:
        # The filter cannot be removed, and without a listener every connect fails: better not to start at all.
        reason = page.reason or "its guard was ended from outside before it was ready"
        write_line(f"cannot guard {order.command[0]}, so it was not started: {reason}")
        sys.exit(order.status_unguarded)
    if order.is_verbose and no_new_privs:
        write_line("without CAP_SYS_ADMIN a guarded program gains no privileges: sudo and su inside it will refuse")
    return ""


def _explain_refusal(order: Order, error: OSError) -> str:
    """Report why the filter was refused, and return that; nothing if the program is guarded all the same."""
    if error.errno != errno.EBUSY:
        return refuse_or_go_unguarded(
            order, f"the kernel refuses the filter ({error.strerror}); {what_works_instead()}"
        )
    if _is_guarded_already():
        if order.is_verbose:
            write_line("guarded by the `tailbite run` around this one")
        return ""
    return refuse_or_go_unguarded(
        order,
        "another supervisor listens to its system calls already, and there can be only one; " + what_works_instead(),
    )


def _is_guarded_already() -> bool:
    """Ask a `tailbite run` around this one whether it guards this process; the kernel alone would say EBADF."""
    return libc().connect(-1, IS_GUARDED, len(IS_GUARDED)) != 0 and last_error("connect").errno == GUARDED
