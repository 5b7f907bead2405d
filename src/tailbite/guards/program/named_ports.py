"""Ports that the user named, held for as long as the program runs: no filter, and nothing per connect."""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING

from tailbite.guards.program.helpers import HELPER_ENDED, detach, hears_go, spawn_beside, why_not_started
from tailbite.guards.program.mechanism import CANNOT_LEARN_END, Mechanism
from tailbite.guards.program.monitor import Task, do_task
from tailbite.guards.program.order import refuse_or_go_unguarded, write_line
from tailbite.guards.program.port_hold import hold
from tailbite.kernel.pidfd import open_process
from tailbite.kernel.sysctl import read_ephemeral_range

if TYPE_CHECKING:
    import socket

    from tailbite.guards.program.mechanism import Choice
    from tailbite.guards.program.order import Order

__all__ = ["hold_named_ports"]

_RETRY_MS = 50


def hold_named_ports(order: Order, choice: Choice) -> str:
    """Start the helper that holds the ports; return why not all that need it are held, nothing if they are.

    Raises:
        SystemExit: the program has to be guarded and cannot be.
    """
    if choice.mechanism is Mechanism.NONE:
        return refuse_or_go_unguarded(order, choice.reason)
    held: dict[int, socket.socket | None] = {}
    reason = _hold_ports(order, held) or _start_holder(held)
    for sock in held.values():
        if sock is not None:
            sock.close()
    if reason:
        return refuse_or_go_unguarded(order, reason)
    if order.is_verbose:
        for port in held:
            write_line(f"port {port} is held as long as {order.command[0]} runs")
    return ""


def _hold_ports(order: Order, held: dict[int, socket.socket | None]) -> str:
    """Hold each port, None for one that a server has; return why one cannot be held, nothing if all are."""
    for port in order.ports:
        try:
            held[port] = hold(port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                held[port] = None
            elif _may_be_chosen(port):
                return f"port {port} cannot be held ({error.strerror})"
            elif order.is_verbose:
                write_line(f"port {port} needs no guard: source ports are not chosen from there")
    return ""


def _start_holder(held: dict[int, socket.socket | None]) -> str:
    """Start the holder; return why it is not ready, nothing when it is."""
    try:
        program = open_process(os.getpid())
    except OSError as error:
        return f"{CANNOT_LEARN_END}: {error.strerror}"
    try:
        with spawn_beside(lambda end: _keep_holding(end, held, program)) as helper:
            return "" if hears_go(helper) else HELPER_ENDED
    except (OSError, MemoryError) as error:
        return why_not_started(error)
    finally:
        os.close(program)


def _may_be_chosen(port: int) -> bool:
    try:
        return port in read_ephemeral_range()
    except (OSError, ValueError):
        return True


def _keep_holding(end: socket.socket, held: dict[int, socket.socket | None], program: int) -> None:
    detach(end.fileno(), program, *(sock.fileno() for sock in held.values() if sock is not None))
    end.send(b"+")
    end.close()
    do_task(Task(lambda _, watch: _hold_until_end(held, program, watch.monitor), program, select.POLLIN))


def _hold_until_end(held: dict[int, socket.socket | None], program: int, monitor: int) -> bool:
    """Hold the ports until the program has ended (True) or the monitor has (False)."""
    try:
        watched = open_process(monitor)
    except ProcessLookupError:
        return False
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    poll.register(program, select.POLLIN)
    while True:
        _hold_missing(held)
        ready = dict(poll.poll(_RETRY_MS if None in held.values() else None))
        if ready:
            os.close(watched)
            return program in ready


def _hold_missing(held: dict[int, socket.socket | None]) -> None:
    """Hold each port that a server on [::] had when it was tried last; once that server has ended it must be held."""
    for port in [port for port, sock in held.items() if sock is None]:
        try:
            held[port] = hold(port)
        except OSError:
            pass
