"""``tailbite run``: any program, unmodified, unable to connect to itself."""

from __future__ import annotations

import click

from tailbite.cli.run_program import run, run_in_process

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
@click.option(
    "-v", "--verbose", is_flag=True, help="Report on stderr which guard is active and each connect that it changed."
)
@click.option(
    "--stats-json",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    metavar="FILE",
    help="Write what was done to FILE, - for stdout, when the program has ended; tailbite then stays its parent.",
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
    if in_process:
        if ports or require or stats_json:
            raise click.UsageError("--in-process goes with none of --port, --require and --stats-json")
        run_in_process(argv, is_verbose=verbose)
    return run(argv, ports, is_required=require, is_verbose=verbose, stats_json=stats_json)
