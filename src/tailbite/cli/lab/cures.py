"""``tailbite lab cures``: the strategies of clients, compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tailbite.cli import status
from tailbite.cli.lab.files import Files, experiment
from tailbite.cli.lab.group import private_network
from tailbite.cli.output import Unsupported, console, emit_json, note
from tailbite.cli.params import DURATION, Count
from tailbite.errors import FirewallError, NamespaceUnavailable
from tailbite.guards.host.firewall import find_firewall, read_state
from tailbite.lab.cures import Cures, cures_from_record, cures_to_record, run_cures
from tailbite.lab.storm import NoControl, StormSettings
from tailbite.lab.strategies import STRATEGIES

if TYPE_CHECKING:
    from tailbite.lab.storm import StormRound

__all__ = ["command"]

_FULL_PATIENCE = 150.0
_FULL_EVERY = 1.0
_HOST_GUARD = "host guard"


@click.command("cures")
@click.option(
    "--clients", type=Count(1, 500), default=20, show_default=True, help="Number of clients that reconnect."
)
@click.option(
    "--restarts", type=Count(1, 1000), default=5, show_default=True, help="Number of restarts of the server."
)
@click.option(
    "--attempts",
    type=Count(100, 1_000_000),
    default=2000,
    show_default=True,
    help="Connects of all clients during each outage.",
)
@click.option(
    "--every", type=DURATION, help="Time between two connects of a client while the server starts.  [default: 250ms]"
)
@click.option(
    "--patience", type=DURATION, help="Time after which a server that cannot start is helped.  [default: 3s]"
)
@click.option(
    "--full",
    is_flag=True,
    help="Wait for the end of every TIME-WAIT: --every 1s --patience 150s. Takes half an hour.",
)
@click.option("--plain-server", is_flag=True, help="Use a server without SO_REUSEADDR.")
@click.option(
    "--only",
    "names",
    multiple=True,
    type=click.Choice([strategy.name for strategy in STRATEGIES]),
    help="Measure only this strategy; can be given several times.",
)
@experiment("cures")
@click.pass_context
def command(
    ctx: click.Context,
    clients: int,
    restarts: int,
    attempts: int,
    every: float | None,
    patience: float | None,
    full: bool,
    plain_server: bool,
    names: tuple[str, ...],
    files: Files,
    as_json: bool,
) -> None:
    """Compare the strategies of clients against self-connects.

    Many clients reconnect to a server that stops and starts again. For each strategy the table shows the number of
    self-connects and of failed starts, the time without the server, the time until all clients were served, and the
    cost of a connect.

    \b
    Examples:
      tailbite lab cures
      tailbite lab cures --restarts 3 --data cures.jsonl

    Exit status: 0 if no start failed with the strategies that prevent self-connects, and some failed with the naive
    strategy; 1 if not; 4 if this system does not permit a private network.
    """
    if full and (every is not None or patience is not None):
        raise click.UsageError("--full sets --every and --patience: leave them out")
    if files.stored:
        record, seen = files.read(cures_from_record)
    else:
        every, patience = every or (_FULL_EVERY if full else 0.25), patience or (_FULL_PATIENCE if full else 3.0)
        settings = StormSettings(clients, restarts, attempts, every, patience, plain_server)
        private_network("the storm")
        seen = _measure(settings, names, quiet=as_json)
        record = cures_to_record(seen)
        files.store(record)
    if files.figure:
        from tailbite.lab.draw_cures import draw_cures

        files.draw_figure(lambda stem: draw_cures(seen, record.machine, stem))
    if as_json:
        emit_json(
            "lab.cures",
            settings=seen.settings,
            strategies=seen.summaries(),
            rounds=seen.rounds,
            costs=seen.costs,
            as_claimed=seen.is_as_claimed,
        )
    else:
        _print_table(seen)
    ctx.exit(status.FINE if seen.is_as_claimed else status.FOUND)


def _measure(settings: StormSettings, names: tuple[str, ...], *, quiet: bool) -> Cures:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    chosen = [strategy for strategy in STRATEGIES if not names or strategy.name in names]
    if (obstacle := _host_guard_obstacle()) is not None and any(strategy.name == _HOST_GUARD for strategy in chosen):
        if _HOST_GUARD in names:
            raise Unsupported(obstacle)
        note(f"without the {_HOST_GUARD}: {obstacle}")
        chosen = [strategy for strategy in chosen if strategy.name != _HOST_GUARD]
    columns = (BarColumn(bar_width=24), TextColumn("{task.fields[strategy_name]}"), TimeElapsedColumn())
    screen = console(stderr=True)
    with Progress(*columns, console=screen, disable=quiet or not screen.is_terminal) as bar:
        task = bar.add_task("", total=len(chosen) * settings.restarts, strategy_name="")

        def begin(name: str) -> None:
            bar.update(task, strategy_name=name)

        def progress(_: StormRound) -> None:
            bar.advance(task)

        try:
            return run_cures(chosen, settings, begin, progress)
        except NamespaceUnavailable as error:
            raise Unsupported(str(error)) from error
        except NoControl as error:
            raise click.ClickException(str(error)) from error


def _host_guard_obstacle() -> str | None:
    """Return the reason why the host guard does not work here, None if it does."""
    try:
        read_state(find_firewall(4))
    except FirewallError as error:
        return str(error)
    return None


def _print_table(seen: Cures) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("clients", no_wrap=True)
    for heading in (
        "self-\nconnects",
        "failed\nstarts",
        "server kept\ndown, worst",
        "all served\nafter",
        "cost of a\nconnect",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in seen.summaries():
        table.add_row(
            summary.strategy,
            f"{summary.self_connects:,}",
            f"{summary.failed} of {summary.restarts}",
            summary.kept_down,
            "never" if summary.recovered is None else f"{summary.recovered:.2f} s",
            "" if summary.cost is None else f"x{summary.cost:.2f}",
        )
    console().print(table)
    settings = seen.settings
    note(
        f"clients: {settings.clients}, restarts: {settings.restarts}; {settings.attempts:,} connects in each outage; "
        f"a server {'without' if settings.plain_server else 'with'} SO_REUSEADDR"
    )
    if any(each.helped for each in seen.rounds):
        note(
            f"after {settings.patience:g} s the clients that held the server's port were killed; "
            "for TIME-WAIT, the rest of the kernel's timer is added"
        )
