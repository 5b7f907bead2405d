"""``tailbite lab loop``: a reconnect loop at full speed, with counts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from tailbite.cli import status
from tailbite.cli.lab.files import Files, experiment
from tailbite.cli.lab.group import private_network
from tailbite.cli.output import console, emit_json, note
from tailbite.cli.params import RANGE, WHOLE, Count, PortNumber
from tailbite.host.see.port_selection import running_selection
from tailbite.lab.fit import Fit, expected_odds, fit_model
from tailbite.lab.loop import (
    ExperimentSettings,
    LoopTally,
    WorkerFailed,
    loop_from_record,
    loop_to_record,
    run_loop,
)

if TYPE_CHECKING:
    from tailbite.core.odds import Odds
    from tailbite.core.ports import PortRange
    from tailbite.core.selection import Selection

__all__ = ["command"]

_NEVER_ATTEMPTS = 200_000
_PATIENCE = 40
"""Multiple of the expected number of attempts after which a loop stops: probability below 1e-15."""


@click.command("loop")
@click.option("--port", type=PortNumber(1024, 65535), default=32774, show_default=True, help="The dead port.")
@click.option(
    "--range",
    "ephemeral",
    type=RANGE,
    default="32768-60999",
    show_default=True,
    help="The ephemeral range.",
)
@click.option("--hits", type=WHOLE, default=20, show_default=True, help="Number of self-connects to wait for.")
@click.option("--attempts", type=WHOLE, help="Stop each process after this many connects.")
@click.option("--bind-first", "binds_first", is_flag=True, help="Bind to port 0 before each connect.")
@click.option("--ipv6", is_flag=True, help="Connect to ::1 instead of 127.0.0.1.")
@click.option(
    "--workers",
    type=Count(1, 200),
    help="Number of processes, each with its own address.  [default: one per CPU, but one alone where the kernel's "
    "choices for one address depend on connects to others]",
)
@click.option(
    "--client",
    help="Run this program once per attempt: telnet, or a command with {host} and {port}.",
)
@experiment("loop")
@click.pass_context
def command(
    ctx: click.Context,
    port: int,
    ephemeral: PortRange,
    hits: int,
    attempts: int | None,
    binds_first: bool,
    ipv6: bool,
    workers: int | None,
    client: str | None,
    files: Files,
    as_json: bool,
) -> None:
    """Connect to a dead port until the socket is connected to itself, again and again, and count.

    The loop is 'while true; do telnet 127.0.0.1 32775; done' at tens of thousands of attempts a second. Since Linux
    4.2 connect() chooses ports with the parity of the range's low end first, so port 32775 never self-connects in the
    default range; 32774 does, and so does 32775 for a client that binds first (--bind-first).

    \b
    Examples:
      tailbite lab loop
      tailbite lab loop --port 32775 --bind-first --hits 100

    Exit status: 0 if kernel and model (tailbite lab odds) agree, 1 if they do not, 4 if this system does not permit a
    private network.
    """
    if files.stored:
        record, (settings, tallies) = files.read(loop_from_record)
    else:
        private_network("the loop")
        selection = running_selection().selection
        system = selection.label
        model = expected_odds(ExperimentSettings(port, ephemeral, 1, 1, binds_first, system=system))
        limit = attempts or (int(_PATIENCE * model.between) * hits if model.is_possible else _NEVER_ATTEMPTS)
        workers = min(workers or _workers(selection), hits) if client is None else 1
        settings = ExperimentSettings(port, ephemeral, hits, limit, binds_first, ipv6, workers, system)
        tallies = _measure(settings, client, quiet=as_json)
        record = loop_to_record(settings, tallies)
        files.store(record)
    seen = fit_model(settings, tallies)
    agrees = _agrees(settings, tallies, seen)
    if files.figure:
        from tailbite.lab.draw_loop import draw_loop

        files.draw_figure(lambda stem: draw_loop(settings, tallies, record.machine, stem))
    if as_json:
        _print_json(settings, tallies, seen, agrees)
    else:
        _print_table(settings, tallies, seen, agrees)
    ctx.exit(status.FINE if agrees else status.FOUND)


def _workers(selection: Selection) -> int:
    return 1 if selection.is_shared else os.cpu_count() or 1


def _measure(settings: ExperimentSettings, client: str | None, *, quiet: bool) -> list[LoopTally]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("self-connects in {task.fields[attempts]:,} attempts"),
        TimeElapsedColumn(),
    )
    screen = console(stderr=True)
    # auto_refresh would be a thread, and the workers are forked from this process.
    with Progress(*columns, console=screen, auto_refresh=False, disable=quiet or not screen.is_terminal) as bar:
        task = bar.add_task("", total=settings.hits, attempts=0)

        def progress(hits: int, attempts: int) -> None:
            bar.update(task, completed=hits, attempts=attempts, refresh=True)

        try:
            if client is None:
                return run_loop(settings, progress)
            from tailbite.lab.program_loop import run_program_loop

            return [run_program_loop(settings, client, progress)]
        except FileNotFoundError as error:
            raise click.UsageError(str(error)) from error
        except WorkerFailed as error:
            raise click.ClickException(str(error)) from error


def _agrees(settings: ExperimentSettings, tallies: list[LoopTally], seen: Fit | None) -> bool:
    model = expected_odds(settings)
    if not model.is_possible:
        return not any(tally.hits for tally in tallies)
    if seen is not None:
        return seen.agrees
    # Too few self-connects for statistics: one is enough, or their absence must be likely.
    attempts = sum(tally.attempts for tally in tallies)
    return any(tally.hits for tally in tallies) or model.probability(attempts) < 0.99


def _print_json(settings: ExperimentSettings, tallies: list[LoopTally], seen: Fit | None, agrees: bool) -> None:
    emit_json(
        "lab.loop",
        port=settings.port,
        range=settings.ephemeral,
        binds_first=settings.binds_first,
        ipv6=settings.ipv6,
        attempts=sum(tally.attempts for tally in tallies),
        self_connects=sum(len(tally.hits) for tally in tallies),
        even=sum(tally.even for tally in tallies),
        odd=sum(tally.odd for tally in tallies),
        strides={stride: sum(tally.strides[stride] for tally in tallies) for stride in _strides(tallies)},
        fit=seen,
        agrees=agrees,
    )


def _strides(tallies: list[LoopTally]) -> list[int]:
    return sorted({stride for tally in tallies for stride in tally.strides})


def _print_table(settings: ExperimentSettings, tallies: list[LoopTally], seen: Fit | None, agrees: bool) -> None:
    from rich.table import Table

    model = expected_odds(settings)
    screen = console()
    attempts = sum(tally.attempts for tally in tallies)
    hits = sum(len(tally.hits) for tally in tallies)
    even, odd = (sum(getattr(tally, name) for tally in tallies) for name in ("even", "odd"))
    table = Table(box=None, pad_edge=False, title=None)
    table.add_column("")
    table.add_column("kernel", justify="right")
    table.add_column("model", justify="right")
    table.add_row("connects", f"{attempts:,}", "")
    table.add_row("self-connects", f"{hits:,}", "" if model.is_possible else "never")
    table.add_row("even source ports", f"{even:,}", "")
    table.add_row("odd source ports", f"{odd:,}", "")
    if seen is not None:
        table.add_row("attempts between self-connects", _attempts(seen.mean), _attempts(seen.model_mean))
        table.add_row("  deviation", f"{seen.deviation:+.1%}", f"± {seen.error / seen.model_mean:.1%}")
        if seen.lap_chance is not None and seen.model_lap_chance is not None:
            table.add_row(
                "probability in one lap of the range",
                f"{seen.lap_chance:.4f}",
                f"{seen.model_lap_chance:.4f}",
            )
            table.add_row("  99 % confidence", f"{seen.lap_low:.4f}-{seen.lap_high:.4f}", "")
        table.add_row("Kolmogorov-Smirnov p", f"{seen.p_value:.3f}", "> 0.01")
    screen.print(table)
    _print_strides(tallies, settings)
    note(_sentence(settings, model, hits, agrees))


def _attempts(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"


def _print_strides(tallies: list[LoopTally], settings: ExperimentSettings) -> None:
    screen = console()
    total = sum(tally.strides.total() for tally in tallies)
    shown = [stride for stride in _strides(tallies) if 0 < stride <= 16]
    if settings.binds_first or not total:
        return
    screen.print("\nstride of the source port")
    for stride in shown:
        share = sum(tally.strides[stride] for tally in tallies) / total
        screen.print(f"  {stride:>3} {'#' * round(share * 100):<50} {share:.1%}")


def _sentence(settings: ExperimentSettings, model: Odds, hits: int, agrees: bool) -> str:
    if not agrees:
        return "kernel and model do NOT agree"
    if not model.is_possible:
        return f"no self-connect, and none is possible: {model.sentence().removeprefix('cannot happen: ')}"
    if not hits:
        return "no self-connect, which is likely after so few attempts; allow more with --attempts"
    return "kernel and model agree"
