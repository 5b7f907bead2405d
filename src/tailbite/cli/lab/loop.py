"""``tailbite lab loop``: the loop of the story at full speed, counted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from tailbite.cli import status
from tailbite.cli.lab.files import Files, experiment
from tailbite.cli.lab.group import private_network
from tailbite.cli.output import Unsupported, console, emit_json, note
from tailbite.cli.params import RANGE, WHOLE
from tailbite.lab.fit import Fit, expected, fit
from tailbite.lab.loop import LoopSettings, Tally, WorkerFailed, from_record, run_loop, to_record

if TYPE_CHECKING:
    from tailbite.core.odds import Odds
    from tailbite.core.ports import PortRange

__all__ = ["command"]

_NEVER_ATTEMPTS = 200_000
_PATIENCE = 40
"""Times the expected number of attempts after which a loop gives up: chance below 1e-15."""


@click.command("loop")
@click.option("--port", type=click.IntRange(1024, 65535), default=32774, show_default=True, help="The dead port.")
@click.option(
    "--range",
    "ephemeral",
    type=RANGE,
    default="32768-60999",
    show_default=True,
    help="The ephemeral range to draw source ports from.",
)
@click.option("--hits", type=WHOLE, default=20, show_default=True, help="Self-connects to wait for.")
@click.option("--attempts", type=WHOLE, help="Give up after so many connects per process.")
@click.option("--bind-first", "binds_first", is_flag=True, help="A client that binds to port 0 before it connects.")
@click.option("--ipv6", is_flag=True, help="Dial ::1 instead of 127.0.0.1.")
@click.option(
    "--workers",
    type=click.IntRange(1, 200),
    default=os.cpu_count() or 1,
    help="Processes that dial, each an address of its own.  [default: one per CPU]",
)
@click.option(
    "--client",
    help="Run this program instead, once per attempt: telnet, or a command with {host} and {port}.",
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
    workers: int,
    client: str | None,
    files: Files,
    as_json: bool,
) -> None:
    """Connect to a dead port until the socket is connected to itself, again and again, and count.

    The story's 'while true; do telnet 127.0.0.1 32775; done' at tens of thousands of attempts a second. Since Linux
    4.2 connect() draws ports of the parity of the range's low end, so the story's own 32775 never hits in the default
    range; 32774 does, and so does 32775 for a client that binds first (--bind-first).

    Exit status: 0 if the kernel does what the model says (tailbite lab odds), 1 if it does not, 4 if this system does
    not let us make a private network or lacks the client.
    """
    if files.stored:
        record, (settings, tallies) = files.read(from_record)
    else:
        model = expected(LoopSettings(port, ephemeral, 1, 1, binds_first))
        limit = attempts or (int(_PATIENCE * model.between) * hits if model.is_possible else _NEVER_ATTEMPTS)
        workers = min(workers, hits) if client is None else 1
        settings = LoopSettings(port, ephemeral, hits, limit, binds_first, ipv6, workers)
        private_network("the loop")
        tallies = _measure(settings, client, quiet=as_json)
        record = to_record(settings, tallies)
        files.keep(record)
    seen = fit(settings, tallies)
    agrees = _agrees(settings, tallies, seen)
    if files.figure:
        from tailbite.lab.draw_loop import draw_loop

        files.draw(lambda stem: draw_loop(settings, tallies, record.machine, stem))
    if as_json:
        _emit(settings, tallies, seen, agrees)
    else:
        _show(settings, tallies, seen, agrees)
    ctx.exit(status.FINE if agrees else status.FOUND)


def _measure(settings: LoopSettings, client: str | None, *, quiet: bool) -> list[Tally]:
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
            raise Unsupported(str(error)) from error
        except WorkerFailed as error:
            raise click.ClickException(str(error)) from error


def _agrees(settings: LoopSettings, tallies: list[Tally], seen: Fit | None) -> bool:
    model = expected(settings)
    if not model.is_possible:
        return not any(tally.hits for tally in tallies)
    if seen is not None:
        return seen.agrees
    # Too few hits for statistics: it is enough that one came, or that their absence is no wonder.
    attempts = sum(tally.attempts for tally in tallies)
    return any(tally.hits for tally in tallies) or model.probability(attempts) < 0.99


def _emit(settings: LoopSettings, tallies: list[Tally], seen: Fit | None, agrees: bool) -> None:
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


def _strides(tallies: list[Tally]) -> list[int]:
    return sorted({stride for tally in tallies for stride in tally.strides})


def _show(settings: LoopSettings, tallies: list[Tally], seen: Fit | None, agrees: bool) -> None:
    from rich.table import Table

    model = expected(settings)
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
        table.add_row("attempts from hit to hit, mean", _attempts(seen.mean), _attempts(seen.model_mean))
        table.add_row("  that is", f"{seen.deviation:+.1%}", f"± {seen.error / seen.model_mean:.1%}")
        if seen.lap_chance is not None and seen.model_lap_chance is not None:
            table.add_row(
                "a lap of the range hits with",
                f"{seen.lap_chance:.4f}",
                f"{seen.model_lap_chance:.4f}",
            )
            table.add_row("  99 % confidence", f"{seen.lap_low:.4f}-{seen.lap_high:.4f}", "")
        table.add_row("Kolmogorov-Smirnov p", f"{seen.p_value:.3f}", "> 0.01")
    screen.print(table)
    _show_strides(tallies, settings)
    note(_sentence(settings, model, hits, agrees))


def _attempts(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}"


def _show_strides(tallies: list[Tally], settings: LoopSettings) -> None:
    screen = console()
    total = sum(tally.strides.total() for tally in tallies)
    shown = [stride for stride in _strides(tallies) if 0 < stride <= 16]
    if settings.binds_first or not total:
        return
    screen.print("\nhow far the source port moved on")
    for stride in shown:
        share = sum(tally.strides[stride] for tally in tallies) / total
        screen.print(f"  {stride:>3} {'#' * round(share * 100):<50} {share:.1%}")


def _sentence(settings: LoopSettings, model: Odds, hits: int, agrees: bool) -> str:
    if not agrees:
        return "the kernel does NOT do what the model says"
    if not model.is_possible:
        return f"none came, and none can: {model.sentence().removeprefix('cannot happen: ')}"
    if not hits:
        return "none came, which is no wonder after so few attempts; wait longer with --attempts"
    return "the kernel does what the model says"
