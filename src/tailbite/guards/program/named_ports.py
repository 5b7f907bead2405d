"""Ports that the user named, held for as long as the program runs: no filter, and nothing per connect."""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING

from tailbite.guards.program.helpers import HELPER_ENDED, detach, hears_go, spawn_beside
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


def hold_named_ports(order: Order, choice: Choice) -> bool:
    """Start the helper that holds the ports; tell whether all that need it are held.

    Raises:
        SystemExit: the program has to be guarded and cannot be.
    """
    if choice.mechanism is Mechanism.NONE:
        refuse_or_go_unguarded(order, choice.reason)
        return False
    held = _hold_ports(order)
    if held is None:
        return False
    reason = _start_holder(held)
    for sock in held.values():
        if sock is not None:
            sock.close()
    if reason is not None:
        refuse_or_go_unguarded(order, reason)
        return False
    if order.is_verbose:
        for port in held:
            write_line(f"port {port} is held as long as {order.command[0]} runs")
    return True


def _hold_ports(order: Order) -> dict[int, socket.socket | None] | None:
    """Hold each port, None for one that a server has; return None if one cannot be held."""
    held: dict[int, socket.socket | None] = {}
    for port in order.ports:
        try:
            held[port] = hold(port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                held[port] = None
            elif _may_be_chosen(port):
                refuse_or_go_unguarded(order, f"port {port} cannot be held ({error.strerror})")
                return None
            elif order.is_verbose:
                write_line(f"port {port} needs no guard: source ports are not chosen from there")
    return held


def _start_holder(held: dict[int, socket.socket | None]) -> str | None:
    """Start the holder; return None when it is ready, else the reason why it is not."""
    try:
        program = open_process(os.getpid())
    except OSError as error:
        return f"{CANNOT_LEARN_END}: {error.strerror}"
    try:
        with spawn_beside(lambda end: _keep_holding(end, held, program)) as helper:
            return None if hears_go(helper) else HELPER_ENDED
    except OSError as error:
        return f"no process can be started that holds its ports ({error.strerror})"
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
