"""Any program, guarded while it runs: it becomes what was asked for only after its guard stands.

The usual way, the supervisor *beside* the program::

    tailbite run ──fork─fork──> monitor ──fork──> worker        (program_keeper, program_steer)
         │ installs the filter, sends its listener ─────^ answers every connect call
         └ exec: the program, with the pid, parent, terminal and descriptors it was called with

With Yama's scope 1, or to report when the program has ended, the supervisor is *above* it (program_above).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.guards.program.exec import become, status_of
from tailbite.guards.program.mechanism import Choice, Mechanism, Place
from tailbite.guards.program.port_hold import hold
from tailbite.kernel import seccomp
from tailbite.kernel.sysctl import read_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tailbite.guards.program.shared_page import Tally
    from tailbite.guards.program.steerer import Steerer
    from tailbite.kernel.seccomp import Listener

__all__ = ["CannotGuard", "Order", "Report", "enter", "execute", "run"]

_RETRY_MS = 50


@dataclass(frozen=True, slots=True)
class Order:
    """What to run, and how.

    Attributes:
        command: the program and its arguments.
        environment: what it gets as environment.
        ports: the ports to hold; none means that every connect is looked at.
        is_required: do not start the program if it cannot be guarded.
        is_verbose: tell on stderr what is done.
        status_unguarded: what to exit with if it cannot be guarded but has to be.
    """

    command: tuple[str, ...]
    environment: Mapping[bytes, bytes]
    ports: tuple[int, ...] = ()
    is_required: bool = False
    is_verbose: bool = False
    status_unguarded: int = 4


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it.

    Attributes:
        status: the program's wait status (wait(2)); None if it has not ended.
        is_guarded: False if it ran without a guard.
        counts: how often each :class:`~tailbite.guards.program.shared_page.Outcome` was.
    """

    status: int | None
    is_guarded: bool
    counts: Mapping[str, int]


class CannotGuard(Exception):  # noqa: N818 - it says what is so
    """The program cannot be guarded here; the text is half a sentence that says why."""


def tell(text: str) -> None:
    """Write one line to stderr in one piece; never fails."""
    try:
        os.write(2, f"tailbite: {text}\n".encode(errors="replace"))
    except OSError:
        pass


def run(order: Order, choice: Choice, before_exec: Callable[[bool], None] | None = None) -> Report:
    """Run the program under the chosen guard; returns only when the supervisor is above it.

    Args:
        order: what to run.
        choice: how to guard it.
        before_exec: called with whether it is guarded, when this process is about to become the program.

    Raises:
        SystemExit: the program could not be started.
    """
    if choice.mechanism in (Mechanism.STEER, Mechanism.HOLD):
        if choice.place is Place.ABOVE:
            from tailbite.guards.program.as_parent import run_above

            return run_above(order, choice)
        # Everything a helper needs is loaded before it is forked: later, the folder or the rights may be others.
        from tailbite.guards.program.helpers import spawn_beside
        from tailbite.guards.program.shared_page import Tally

        tally, make = Tally(), steerer_maker(order, choice)
        try:
            helper = spawn_beside(lambda end: _supervise(end, tally, order, make))
        except OSError as error:
            unguarded(order, f"no process can be started for its guard ({error.strerror})")
            is_guarded = False
        else:
            is_guarded = enter(order, helper)
    else:
        is_guarded = _try_named_ports(order, choice)
    if before_exec is not None:
        before_exec(is_guarded)
    execute(order)
    raise AssertionError("unreachable")


def execute(order: Order) -> None:
    """Become the program.

    Raises:
        SystemExit: it cannot be started; 127 if there is none of that name, else 126.
    """
    failure = become(order.command, order.environment)
    tell(f"{order.command[0]}: {failure.strerror}")
    sys.exit(status_of(failure))


def unguarded(order: Order, reason: str) -> None:
    """Say that the program is not guarded.

    Raises:
        SystemExit: it had to be.
    """
    if order.is_required:
        tell(f"cannot guard {order.command[0]}, so it was not started: {reason}")
        sys.exit(order.status_unguarded)
    tell(f"{order.command[0]} runs without a guard: {reason}")


def enter(order: Order, helper: socket.socket) -> bool:
    """Put this process under the filter and hand its listener to the helper; tell whether it is guarded now."""
    abi = seccomp.ABIS[os.uname().machine]
    with helper:
        if not _hears(helper):
            # The limit of processes, most likely. Once the filter is on there is no way back, so it is asked before.
            unguarded(order, "no process can be started for its guard")
            return False
        try:
            listener, no_new_privs = seccomp.install(abi, seccomp.call_filter(abi))
        except OSError as error:
            if error.errno != errno.EBUSY:
                unguarded(order, f"the kernel refuses the filter ({error.strerror})")
            elif _is_steered():
                if order.is_verbose:
                    tell("guarded by the `tailbite run` around this one")
                return True
            else:
                unguarded(order, "another supervisor listens to its system calls already, and there can be only one")
            return False
        with contextlib.suppress(OSError):
            socket.send_fds(helper, [b"L"], [listener])
        is_up = _hears(helper)
        os.close(listener)
    if not is_up:
        # The filter cannot be taken off, and without a listener every connect fails: better not to start at all.
        tell(f"the guard of {order.command[0]} ended before it stood; nothing was started")
        sys.exit(order.status_unguarded)
    if order.is_verbose and no_new_privs:
        tell("without CAP_SYS_ADMIN a guarded program gains no privileges: sudo and su inside it will refuse")
    return True


def _hears(helper: socket.socket) -> bool:
    try:
        return helper.recv(1) == b"+"
    except OSError:
        return False


def _is_steered() -> bool:
    """Tell whether somebody steers this process already: connect to a port nobody can listen on, and look."""
    try:
        ports = read_ephemeral_range()
        with socket.socket() as blocked, socket.socket() as sock:
            blocked.bind(("127.0.0.1", 0))
            if blocked.getsockname()[1] not in ports:
                return False
            sock.connect_ex(blocked.getsockname())
            from tailbite.kernel.sockopt import local_port_range

            return local_port_range(sock) != (0, 0)
    except (OSError, ValueError):
        return False


def _supervise(end: socket.socket, tally: Tally, order: Order, make: Callable[[Listener, Tally], Steerer]) -> None:
    """The helper's whole life."""
    from tailbite.guards.program.helpers import detach, keep_listening

    detach(end.fileno(), *((2,) if order.is_verbose else ()))
    end.send(b"+")
    _, descriptors, _, _ = socket.recv_fds(end, 1, 1)
    if not descriptors:
        return  # no filter, no listener
    listener = seccomp.Listener(descriptors[0], tally.memory)
    listener.wake_synchronously()
    end.send(b"+")
    end.close()
    keep_listening(listener, tally, lambda: make(listener, tally))


def steerer_maker(order: Order, choice: Choice) -> Callable[[Listener, Tally], Steerer]:
    """Return what makes a worker's steerer, given the listener and the tally.

    It is called before anything is forked, so that all is loaded then: later, the folder or the rights may be others.
    """
    from tailbite.guards.program.steerer import Steerer

    return lambda listener, tally: Steerer(
        seccomp.ABIS[os.uname().machine],
        listener,
        tally,
        copies=choice.mechanism is Mechanism.STEER,
        tell=tell if order.is_verbose else None,
    )


def _try_named_ports(order: Order, choice: Choice) -> bool:
    if choice.mechanism is Mechanism.NONE:
        unguarded(order, choice.reason)
        return False
    held: dict[int, socket.socket | None] = {}
    for port in order.ports:
        try:
            held[port] = hold(port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                if _may_be_drawn(port):
                    unguarded(order, f"port {port} cannot be held ({error.strerror})")
                    return False
                if order.is_verbose:
                    tell(f"port {port} needs no guard: source ports are not drawn from there")
                continue
            held[port] = None
        if order.is_verbose:
            tell(f"port {port} is held as long as {order.command[0]} runs")
    program = os.pidfd_open(os.getpid())
    from tailbite.guards.program.helpers import spawn_beside

    try:
        with spawn_beside(lambda end: _keep_holding(end, held, program)) as helper:
            is_up = helper.recv(1) == b"+"
    except OSError:
        is_up = False
    for sock in held.values():
        if sock is not None:
            sock.close()
    os.close(program)
    if not is_up:
        unguarded(order, "no process can be started that holds its ports")
    return is_up


def _may_be_drawn(port: int) -> bool:
    try:
        return port in read_ephemeral_range()
    except (OSError, ValueError):
        return True


def _keep_holding(end: socket.socket, held: dict[int, socket.socket | None], program: int) -> None:
    from tailbite.guards.program.helpers import detach, keep

    detach(end.fileno(), program, *(sock.fileno() for sock in held.values() if sock is not None))
    end.send(b"+")
    end.close()

    def work(monitor: int) -> bool:
        poll = select.poll()
        poll.register(monitor, select.POLLIN)
        poll.register(program, select.POLLIN)
        while True:
            # A port that a server on [::] has cannot be held now. Once the server is gone it must be.
            for port in [port for port, sock in held.items() if sock is None]:
                try:
                    held[port] = hold(port)
                except OSError:
                    pass
            ready = dict(poll.poll(_RETRY_MS if None in held.values() else None))
            if program in ready:
                return True
            if monitor in ready:
                return False

    keep(work, program, select.POLLIN)
