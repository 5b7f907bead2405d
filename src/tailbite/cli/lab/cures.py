"""``tailbite lab cures``: the strategies side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tailbite.cli import status
from tailbite.cli.lab.files import Files, experiment
from tailbite.cli.lab.group import private_network
from tailbite.cli.output import Unsupported, console, emit_json, note
from tailbite.cli.params import DURATION
from tailbite.errors import FirewallError, NamespaceUnavailable
from tailbite.guards.host.firewall import find_firewall, read_state
from tailbite.lab.cures import Cures, from_record, run_cures, to_record
from tailbite.lab.storm import NoControl, StormSettings
from tailbite.lab.strategies import STRATEGIES

if TYPE_CHECKING:
    from tailbite.lab.storm import Round

__all__ = ["command"]

_FULL_PATIENCE = 150.0
_FULL_EVERY = 1.0
_HOST_GUARD = "host guard"


@click.command("cures")
@click.option("--clients", type=click.IntRange(1, 500), default=20, show_default=True, help="Clients that reconnect.")
@click.option(
    "--restarts", type=click.IntRange(1, 1000), default=5, show_default=True, help="Restarts of the server."
)
@click.option(
    "--attempts",
    type=click.IntRange(100, 1_000_000),
    default=2000,
    show_default=True,
    help="Connects of all clients in each outage.",
)
@click.option("--every", type=DURATION, help="How often a client tries while the server starts.  [default: 250ms]")
@click.option("--patience", type=DURATION, help="When to help a server that cannot start.  [default: 3s]")
@click.option(
    "--full", is_flag=True, help="Wait out every TIME-WAIT: --every 1s --patience 150s. Takes half an hour."
)
@click.option("--plain-server", is_flag=True, help="A server without SO_REUSEADDR.")
@click.option(
    "--only",
    "names",
    multiple=True,
    type=click.Choice([strategy.name for strategy in STRATEGIES]),
    help="Only this strategy; can be given several times.",
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
    """Compare what clients do about self-connects, under a storm.

    Clients reconnect to a server that goes away and comes back. For each strategy: how many self-connects, which
    restarts failed, how long the server was kept down, how long until all clients were served, and what a connect
    costs.

    Exit status: 0 if preventing kept every start from failing and the naive client did not, 1 if not, 4 if this
    system does not let us make a private network.
    """
    if full and (every is not None or patience is not None):
        raise click.UsageError("--full sets --every and --patience: leave them out")
    if files.stored:
        record, seen = files.read(from_record)
    else:
        settings = StormSettings(
            clients,
            restarts,
            attempts,
            every or (_FULL_EVERY if full else 0.25),
            patience or (_FULL_PATIENCE if full else 3.0),
            plain_server,
        )
        private_network("the storm")
        seen = _measure(settings, names, quiet=as_json)
        record = to_record(seen)
        files.keep(record)
    if files.figure:
        from tailbite.lab.draw_cures import draw_cures

        files.draw(lambda stem: draw_cures(seen, record.machine, stem))
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
        _show(seen)
    ctx.exit(status.FINE if seen.is_as_claimed else status.FOUND)


def _measure(settings: StormSettings, names: tuple[str, ...], *, quiet: bool) -> Cures:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    chosen = [strategy for strategy in STRATEGIES if not names or strategy.name in names]
    if (lacking := _lacking()) is not None and any(strategy.name == _HOST_GUARD for strategy in chosen):
        if _HOST_GUARD in names:
            raise Unsupported(lacking)
        note(f"without the {_HOST_GUARD}: {lacking}")
        chosen = [strategy for strategy in chosen if strategy.name != _HOST_GUARD]
    columns = (BarColumn(bar_width=24), TextColumn("{task.fields[doing]}"), TimeElapsedColumn())
    screen = console(stderr=True)
    with Progress(*columns, console=screen, disable=quiet or not screen.is_terminal) as bar:
        task = bar.add_task("", total=len(chosen) * settings.restarts, doing="")

        def begin(name: str) -> None:
            bar.update(task, doing=name)

        def progress(_: Round) -> None:
            bar.advance(task)

        try:
            return run_cures(chosen, settings, begin, progress)
        except NamespaceUnavailable as error:
            raise Unsupported(str(error)) from error
        except NoControl as error:
            raise click.ClickException(str(error)) from error


def _lacking() -> str | None:
    """Say what the host guard lacks here, None if nothing."""
    try:
        read_state(find_firewall(4))
    except FirewallError as error:
        return str(error)
    return None


def _show(seen: Cures) -> None:
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
    if any(one.helped for one in seen.rounds):
        note(
            f"after {settings.patience:g} s the clients in the server's way were killed; "
            "for TIME-WAIT, what the kernel's timer still said is added"
        )
