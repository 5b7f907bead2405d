"""``tailbite run``: any program, unmodified, unable to connect to itself."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from tailbite.cli import exit as status

if TYPE_CHECKING:
    from tailbite.guards.program import Report
    from tailbite.guards.program_choice import Choice

__all__ = ["command"]


@click.command(
    "run",
    short_help="Run any program so that it cannot connect to itself.",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)
@click.option(
    "-p",
    "--port",
    "ports",
    type=click.IntRange(1, 65535),
    multiple=True,
    metavar="PORT",
    help="Hold this port for as long as the program runs, instead of watching every connect. May be repeated.",
)
@click.option(
    "--in-process",
    is_flag=True,
    help="Guard the Pythons among what runs, from inside (tailbite.guard()), and no other program. No seccomp.",
)
@click.option("--require", is_flag=True, help="Exit with status 4, and start nothing, if it cannot be guarded.")
@click.option("-v", "--verbose", is_flag=True, help="Tell on stderr how it is guarded and what was steered.")
@click.option(
    "--stats-json",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="Write what was done to FILE when the program has ended; tailbite then stays its parent.",
)
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]...")
def command(
    ports: tuple[int, ...],
    in_process: bool,
    require: bool,
    verbose: bool,
    stats_json: str | None,
    argv: tuple[str, ...],
) -> int:
    """Run any program so that none of its TCP connections is one to itself.

    The program keeps its process id, terminal, signals and exit status. Its threads, children and daemons are
    guarded like itself. No root is needed: every connect(2) to a port of the ephemeral range is looked at before it
    runs, and its source port is drawn from the rest of the range (Linux 6.3; before that, the port is held for the
    moment). What cannot be seen that way: io_uring and 32-bit programs; for those, name the ports with --port.

    \b
    Examples:
      tailbite run -- telnet 127.0.0.1 32246
      tailbite run --require -- ./start-all-services.sh
      tailbite run --port 46884 -- java -jar client.jar
      tailbite run --in-process -- python app.py

    Exit status: the program's own. 127 if there is no such program, 126 if it cannot be executed, 4 if --require
    was given and it cannot be guarded here.
    """
    from tailbite.guards import program
    from tailbite.guards.program_choice import Mechanism, Place, choose, look
    from tailbite.guards.program_exec import original_environment

    if in_process:
        if ports or require or stats_json:
            raise click.UsageError("--in-process goes with none of --port, --require and --stats-json")
        from tailbite.guards.inherit import environment

        if verbose:
            program.tell(f"every Python 3.11 or newer below {argv[0]} guards itself; no other program is guarded")
        program.execute(program.Order(argv, environment(original_environment())))
    chosen = choose(look(), names_ports=bool(ports), stays_parent=stats_json is not None)
    if verbose and chosen.mechanism in (Mechanism.STEER, Mechanism.HOLD):
        above = ", tailbite stays its parent" if chosen.place is Place.ABOVE else ""
        program.tell(f"ports of {argv[0]} are {chosen.mechanism.value}{above}")
    order = program.Order(
        command=argv,
        environment=original_environment(),
        ports=ports,
        is_required=require,
        is_verbose=verbose,
        status_unguarded=status.UNSUPPORTED,
    )
    _write_stats(stats_json, chosen, program.Report(None, False, {}))

    def before_exec(is_guarded: bool) -> None:
        _write_stats(stats_json, chosen, program.Report(None, is_guarded, {}))

    report = program.run(order, chosen, before_exec)
    _write_stats(stats_json, chosen, report)
    from tailbite.guards.program_above import mirror

    return mirror(report.status)


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
        "guarded": report.is_guarded,
        "reason": chosen.reason or None,
        "status": None if report.status is None else os.waitstatus_to_exitcode(report.status),
        "connects": dict(report.counts),
    }
    try:
        write_atomically(Path(path), json.dumps(content, indent=2) + "\n")
    except OSError as error:
        click.echo(f"tailbite: {path}: {error.strerror}", err=True)
        if report.status is None:
            sys.exit(status.USAGE)
