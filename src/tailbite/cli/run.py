"""``tailbite run``: any program, unmodified, guarded against self-connects."""

from __future__ import annotations

import click

from tailbite.cli.params import PORT_NUMBER
from tailbite.cli.run_program import run_in_process, run_program

__all__ = ["command"]


def _refuse_separator(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value == "--":
        raise click.BadParameter("-- begins the command: give a file for --stats-json before it")
    return value


@click.command(
    "run",
    short_help="Run any program so that it cannot connect to itself.",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)
@click.option(
    "-p",
    "--port",
    "ports",
    type=PORT_NUMBER,
    multiple=True,
    metavar="PORT",
    help="Hold this port for as long as the program runs, instead of inspecting every connect. May be repeated.",
)
@click.option(
    "--in-process",
    is_flag=True,
    help="Guard the program and its children from inside if they are Pythons (tailbite.guard()). No seccomp.",
)
@click.option(
    "--require-guard",
    "--require",
    "require",
    is_flag=True,
    help="Start nothing and exit with status 4 if the program cannot be guarded.",
)
@click.option(
    "-v", "--verbose", is_flag=True, help="Report on stderr which guard is active and each connect that it changed."
)
@click.option(
    "--stats-json",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    callback=_refuse_separator,
    metavar="FILE",
    help="Write a JSON report to FILE when the program has ended; - is stdout. tailbite then stays its parent.",
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
    """Run any program so that its TCP clients cannot connect to themselves.

    The program keeps its process id, terminal, signals and exit status. Its threads, children and daemons are guarded
    like the program itself. No root is needed. Every connect(2) is inspected before it runs, and the kernel chooses
    its source port from the ephemeral range without the destination port. On kernels without IP_LOCAL_PORT_RANGE
    (Linux 6.3, and 6.1 of Debian 12), the destination port is held until the connect has its source port instead.

    Connects by io_uring and by 32-bit programs are not visible. For those, name the ports with --port.

    \b
    Examples:
      tailbite run -- telnet 127.0.0.1 32246
      tailbite run --require -- ./start-all-services.sh
      tailbite run --port 46884 -- java -jar client.jar
      tailbite run --in-process -- python app.py

    Exit status: the program's own; 127 if the program does not exist, 126 if it cannot be executed, 4 if --require
    was given and the program cannot be guarded here.
    """
    if in_process:
        if ports or require or stats_json:
            raise click.UsageError("--in-process cannot be combined with --port, --require or --stats-json")
        run_in_process(argv, is_verbose=verbose)
    return run_program(argv, ports, is_required=require, is_verbose=verbose, stats_json=stats_json)
