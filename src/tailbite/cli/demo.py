"""``tailbite demo``: the effect and its cure, on this kernel, in acts."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from rich.padding import Padding
from rich.text import Text

from tailbite.cli import status
from tailbite.cli.output import Unsupported, console, emit_json
from tailbite.cli.params import RANGE
from tailbite.core.ports import PortRange
from tailbite.errors import NamespaceUnavailable
from tailbite.kernel.namespace import enter_private_network
from tailbite.kernel.sysctl import read_ephemeral_range
from tailbite.lab.story import Act, Settings, tell, tell_natural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

__all__ = ["command"]

STORY_PORT = 32246
STORY_RANGE = PortRange(9000, 65500)


class _Silent:
    """Tells nothing: for --json."""

    def begin(self, number: int, title: str) -> None: ...
    def say(self, text: str) -> None: ...
    def show(self, text: str) -> None: ...
    def count(self, attempts: int) -> None: ...


class _Teller:
    """Tells it on a terminal, or to a file, while it happens."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._counting = False

    def begin(self, number: int, title: str) -> None:
        self._end_count()
        self._screen.print()
        self._screen.print(f"[bold]{number}. {title}[/bold]")

    def say(self, text: str) -> None:
        self._end_count()
        self._screen.print(Padding(Text(text, style="dim"), (0, 3)))

    def show(self, text: str) -> None:
        self._end_count()
        self._screen.print(f"   {text}", markup=False, soft_wrap=True)

    def count(self, attempts: int) -> None:
        if self._screen.is_terminal:
            self._screen.print(f"   {attempts:,} attempts", end="\r")
            self._counting = True

    def _end_count(self) -> None:
        if self._counting:
            self._screen.print()
            self._counting = False


@contextmanager
def _private_network(natural: bool) -> Iterator[None]:
    try:
        if not natural:
            enter_private_network()
        yield
    except NamespaceUnavailable as error:
        raise Unsupported(
            f"{error}; the demo needs a private network to be certain. "
            "'tailbite demo --natural' needs none: it waits for chance, on this network"
        ) from error


@click.command("demo")
@click.option(
    "--port",
    type=click.IntRange(1024, 65534),
    help=f"The dead port.  [default: {STORY_PORT}, or with --natural one the kernel can draw]",
)
@click.option(
    "--range",
    "ephemeral",
    type=RANGE,
    help=f"The ephemeral range the acts begin with, before it is narrowed.  [default: {STORY_RANGE}]",
)
@click.option("--full", is_flag=True, help="Wait until the usual cure's TIME-WAIT is over (a minute), and time it.")
@click.option(
    "--natural",
    is_flag=True,
    help="No private network and no narrowed range: reconnect with this machine's range until it happens by chance.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was measured as one JSON object.")
@click.pass_context
def command(
    ctx: click.Context, port: int | None, ephemeral: PortRange | None, full: bool, natural: bool, as_json: bool
) -> None:
    """Show the effect and its cure on this kernel.

    In a private network (nothing outside is touched, no root needed) a real client reconnects to a dead port
    until it is connected to itself; netstat's line; the server that cannot start; the usual cure, which does not
    help; and tailbite, which does.

    Exit status: 0 if every act showed what it claims, 1 if one did not, 4 if this system does not let us make a
    private network.
    """
    if natural and (full or ephemeral is not None):
        raise click.UsageError(
            "--natural uses this machine's range and waits for nothing: leave out --full and --range"
        )
    settings = _natural_settings(port) if natural else _settings(port, ephemeral, full)
    screen = console()
    teller = _Silent() if as_json else _Teller(screen)
    began = time.monotonic()
    with _private_network(natural):
        acts = []
        for act in (tell_natural if natural else tell)(teller, settings):
            acts.append(act)
            if not act.shown and not as_json:
                screen.print(f"   [red]This act did not show what it claims: {act.claim}.[/red]")
    shown = all(act.shown for act in acts)
    seconds = time.monotonic() - began
    if as_json:
        emit_json(
            "demo",
            port=settings.port,
            natural=natural,
            shown=shown,
            seconds=round(seconds, 2),
            acts=[
                {
                    "number": act.number,
                    "title": act.title,
                    "claim": act.claim,
                    "shown": act.shown,
                    "measured": {fact.name: fact.value for fact in act.facts},
                }
                for act in acts
            ],
        )
    else:
        _summary(screen, acts, seconds)
    ctx.exit(status.FINE if shown else status.FOUND)


def _settings(port: int | None, ephemeral: PortRange | None, full: bool) -> Settings:
    port, ephemeral = port or STORY_PORT, ephemeral or STORY_RANGE
    if port not in ephemeral:
        raise click.UsageError(
            f"port {port} lies outside the range {ephemeral}, where the kernel never draws it and nothing happens; "
            f"choose a port inside"
        )
    return Settings(port, ephemeral, wait=full)


def _natural_settings(port: int | None) -> Settings:
    try:
        ephemeral = read_ephemeral_range()
    except (OSError, ValueError) as error:
        raise Unsupported(f"this system's ephemeral range cannot be read ({error})") from error
    if port is None:
        # connect(2) draws ports of the low end's parity (Linux 4.2). A few steps in, so that nothing else has it.
        port = min(ephemeral.low + 6, ephemeral.high - (ephemeral.high - ephemeral.low) % 2)
    if port not in ephemeral:
        raise click.UsageError(f"port {port} lies outside this machine's ephemeral range {ephemeral}")
    return Settings(port, ephemeral)


def _summary(screen: Console, acts: list[Act], seconds: float) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), title_justify="left")
    table.add_column("", justify="right")
    table.add_column("what it shows", ratio=4)
    table.add_column("measured here", ratio=6)
    table.add_column("")
    for act in acts:
        table.add_row(
            str(act.number), act.claim, act.measured, "[green]yes[/green]" if act.shown else "[red bold]NO[/red bold]"
        )
    screen.print()
    screen.print(table)
    screen.print(f"Measured in {seconds:.1f} s on this kernel.", style="dim")
