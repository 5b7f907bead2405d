"""The execution of ``tailbite run``; without options no parser is loaded, as every program would wait for that."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from tailbite.cli import status
from tailbite.guards.program.exec import InheritedSignals, original_environment
from tailbite.guards.program.mechanism import Mechanism, Place, choose, make_room_for_files, read_capabilities
from tailbite.guards.program.order import Order, Report, become_program, write_line
from tailbite.guards.program.run import run_guarded

if TYPE_CHECKING:
    from tailbite.guards.program.mechanism import Choice

__all__ = ["run_in_process", "run_program"]


def run_in_process(argv: tuple[str, ...], *, is_verbose: bool = False) -> NoReturn:
    """Become the program; the Pythons among what it starts guard themselves.

    Raises:
        SystemExit: it cannot be started.
    """
    from tailbite.guards.python.inherit import environment_with_guard

    if is_verbose:
        write_line(f"every Python 3.11 or newer below {argv[0]} guards itself; no other program is guarded")
    become_program(Order(argv, environment_with_guard(original_environment()), InheritedSignals.take_over()))


def run_program(
    argv: tuple[str, ...],
    ports: tuple[int, ...] = (),
    *,
    is_required: bool = False,
    is_verbose: bool = False,
    stats_json: str | None = None,
) -> int:
    """Run a program under the guard that fits, and return its exit status; most often this process becomes it.

    Args:
        argv: the program and its arguments.
        ports: the ports to hold; none means that every connect is inspected.
        is_required: do not start the program if it cannot be guarded.
        is_verbose: report on stderr what is done.
        stats_json: the file to write the report to; - is stdout.

    Raises:
        SystemExit: it cannot be started.
    """
    signals = InheritedSignals.take_over()
    open_files = make_room_for_files()
    chosen = choose(read_capabilities(), names_ports=bool(ports), stays_parent=stats_json is not None)
    if is_verbose and chosen.mechanism in (Mechanism.STEER, Mechanism.HOLD):
        _describe(argv[0], chosen)
    order = Order(
        command=argv,
        environment=original_environment(),
        signals=signals,
        ports=ports,
        is_required=is_required,
        is_verbose=is_verbose,
        status_unguarded=status.UNSUPPORTED,
        open_files=open_files,
    )
    # A file that cannot be written is reported before anything runs.
    if stats_json != "-":
        _write_stats(stats_json, chosen, Report(None, "it has not started", {}))
    elif not _is_open(1):
        write_line("-: standard output is closed; name a file for --stats-json")
        sys.exit(status.USAGE)

    def before_exec(reason: str) -> None:
        _write_stats(stats_json, chosen, Report(None, reason, {}))

    report = run_guarded(order, chosen, before_exec)
    _write_stats(stats_json, chosen, report)
    from tailbite.guards.program.as_parent import mirror

    return mirror(report.status)


def _describe(program_name: str, chosen: Choice) -> None:
    above = ", tailbite stays its parent" if chosen.place is Place.ABOVE else ""
    write_line(f"guarding {program_name}: {chosen.mechanism.value}{above}")
    if chosen.not_covered:
        write_line(f"not guarded here: {', '.join(chosen.not_covered)}")


def _is_open(descriptor: int) -> bool:
    import os

    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _write_stats(path: str | None, chosen: Choice, report: Report) -> None:
    if path is None:
        return
    import json
    import os
    from pathlib import Path

    from tailbite._files import write_atomically

    content = {
        "schema": "tailbite.run/1",
        "mechanism": chosen.mechanism.name.lower().replace("_", "-"),
        "guarded": not report.reason,
        "reason": report.reason or None,
        "not_covered": [] if report.reason else list(chosen.not_covered),
        "status": None if report.status is None else os.waitstatus_to_exitcode(report.status),
        "connects": dict(report.counts),
    }
    text = json.dumps(content, indent=2) + "\n"
    try:
        if path == "-":
            os.write(1, text.encode())  # after the program's own output, which went there without our buffers
        else:
            write_atomically(Path(path), text)
    except OSError as error:
        write_line(f"{path}: {error.strerror}")
        if report.status is None:
            sys.exit(status.USAGE)
