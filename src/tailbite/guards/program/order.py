"""The order to run a program, the report of how it ended, and the last step: becoming that program."""

from __future__ import annotations

import os
import resource
import select
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from tailbite.guards.program.exec import become, explain, status_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailbite.guards.program.exec import InheritedSignals

__all__ = ["Order", "Report", "become_program", "refuse_or_go_unguarded", "write_line"]

_PATIENCE_MS: Final = 100
_STDERR: Final = 2


@dataclass(frozen=True, slots=True)
class Order:
    """A program to run, and how to run it.

    Attributes:
        command: the program and its arguments.
        environment: the program's environment variables.
        signals: the signal dispositions that the program inherits.
        ports: the ports to hold; if empty, every connect is inspected.
        is_required: do not start the program if it cannot be guarded.
        is_verbose: report on stderr what the guard does.
        status_unguarded: the exit status if the program has to be guarded and cannot be.
        open_files: the limits of open files that the program inherits; None leaves them as they are.
    """

    command: tuple[str, ...]
    environment: Mapping[bytes, bytes]
    signals: InheritedSignals
    ports: tuple[int, ...] = ()
    is_required: bool = False
    is_verbose: bool = False
    status_unguarded: int = 4
    open_files: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a guarded program.

    Attributes:
        status: the program's wait status (wait(2)); None if the program has not ended.
        reason: the reason why the program ran without a guard; empty if it was guarded.
        counts: number of connects per :class:`~tailbite.guards.program.shared_page.Outcome`.
    """

    status: int | None
    reason: str
    counts: Mapping[str, int]


def write_line(text: str) -> None:
    """Write one line to stderr in one piece; never fails, and never waits long.

    The guarded program waits while a helper writes. So a line is left out if the reader of a full pipe does not read
    within 0.1 s.
    """
    try:
        poll = select.poll()
        poll.register(_STDERR, select.POLLOUT)
        if poll.poll(_PATIENCE_MS):
            line = "".join(char if char.isprintable() else "?" for char in text)
            os.write(_STDERR, f"tailbite: {line}\n".encode(errors="replace"))
    except OSError:
        pass


def become_program(order: Order) -> NoReturn:
    """Replace this process by the program.

    Raises:
        SystemExit: the program cannot be started; status 127 if it does not exist, else 126.
    """
    if order.open_files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, order.open_files)
    failure = become(order.command, order.environment, order.signals)
    write_line(f"{order.command[0] or repr('')}: {explain(failure)}")
    sys.exit(status_of(failure))


def refuse_or_go_unguarded(order: Order, reason: str) -> str:
    """Report on stderr that the program is not guarded; return the reason if it may run all the same.

    Raises:
        SystemExit: the program has to be guarded (``--require``).
    """
    if order.is_required:
        write_line(f"cannot guard {order.command[0]}, so it was not started: {reason}")
        sys.exit(order.status_unguarded)
    write_line(f"{order.command[0]} runs without a guard: {reason}")
    return reason
