"""``tailbite demo``: a self-connect and its prevention on this kernel, in six acts."""

from __future__ import annotations

import textwrap
import time
from typing import TYPE_CHECKING

import click
from rich.text import Text

from tailbite.cli import status
from tailbite.cli.output import Unsupported, console, emit_json, reason_of
from tailbite.cli.params import RANGE, PortNumber
from tailbite.core.ports import PortRange
from tailbite.errors import NamespaceUnavailable
from tailbite.kernel.namespace import enter_private_network
from tailbite.kernel.sock_diag import SockDiag
from tailbite.kernel.sysctl import read_ephemeral_range
from tailbite.lab.demo.acts import play_demo, play_natural_demo
from tailbite.lab.demo.records import DemoAct, DemoSettings

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["command"]

DEFAULT_PORT = 32246
DEFAULT_RANGE = PortRange(9000, 65500)


class _SilentNarrator:
    """A narrator without output, for --json."""

    def begin_act(self, number: int, title: str) -> None: ...
    def explain(self, text: str) -> None: ...
    def show_line(self, text: str) -> None: ...
    def count_attempts(self, attempts: int) -> None: ...


class _ConsoleNarrator:
    """A narrator that prints while the acts happen."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._counting = False

    def begin_act(self, number: int, title: str) -> None:
        self._end_count()
        self._screen.print()
        self._screen.print(f"[bold]{number}. {title}[/bold]")

    def explain(self, text: str) -> None:
        self._end_count()
        lines = textwrap.wrap(text, max(self._screen.width - 6, 20), break_long_words=False)
        self._screen.print(Text("\n".join(f"   {line}" for line in lines), style="dim"))

    def show_line(self, text: str) -> None:
        self._end_count()
        self._screen.print(f"   {text}", markup=False, soft_wrap=True)

    def count_attempts(self, attempts: int) -> None:
        if self._screen.is_terminal:
            self._screen.print(f"   {attempts:,} attempts", end="\r")
            self._counting = True

    def _end_count(self) -> None:
        if self._counting:
            self._screen.print()
            self._counting = False


def _enter_network(natural: bool) -> None:
    try:
        if not natural:
            enter_private_network()
    except NamespaceUnavailable as error:
        raise Unsupported(
            f"{error}; the demo needs a private network to be certain. "
            "Without one, run 'tailbite demo --natural', which uses this network and waits for chance"
        ) from error
    try:
        with SockDiag():
            pass
    except OSError as error:
        raise Unsupported(f"{error.strerror}; the demo shows what is in it") from error


@click.command("demo")
@click.option(
    "--port",
    type=PortNumber(1024, 65534),
    help=f"The dead port.  [default: {DEFAULT_PORT}, or with --natural one that the kernel can choose]",
)
@click.option(
    "--range",
    "ephemeral",
    type=RANGE,
    help=f"The ephemeral range to begin with, before it is narrowed.  [default: {DEFAULT_RANGE}]",
)
@click.option("--full", is_flag=True, help="Wait for the end of the TIME-WAIT in act 5 (a minute), and time it.")
@click.option(
    "--natural",
    is_flag=True,
    help="Use no private network and no narrowed range: reconnect with this machine's range until chance brings it.",
)
@click.option("-j", "--json", "as_json", is_flag=True, help="Print what was measured as one JSON object.")
@click.pass_context
def command(
    ctx: click.Context, port: int | None, ephemeral: PortRange | None, full: bool, natural: bool, as_json: bool
) -> None:
    """Show a self-connect and its prevention on this kernel.

    In a private network (nothing outside is touched, no root needed), a real client reconnects to a dead port
    until it is connected to itself. The acts show the line of netstat, the server that cannot start, the usual
    fix, which does not help, and tailbite, which does.

    \b
    Examples:
      tailbite demo
      tailbite demo --port 50051 --range 32768-60999
      tailbite demo --json

    Exit status: 0 if every act showed what it claims, 1 if an act did not, 4 if this system does not permit a
    private network, or does not list its sockets.
    """
    if natural and (full or ephemeral is not None):
        raise click.UsageError(
            "--natural uses this machine's range and waits for no TIME-WAIT: leave out --full and --range"
        )
    settings = _natural_settings(port) if natural else _settings(port, ephemeral, full)
    screen = console()
    narrator = _SilentNarrator() if as_json else _ConsoleNarrator(screen)
    began = time.monotonic()
    _enter_network(natural)
    acts = []
    for act in (play_natural_demo if natural else play_demo)(narrator, settings):
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
                    "measured": {each.name: each.value for each in act.measurements},
                }
                for act in acts
            ],
        )
    else:
        _print_summary(screen, acts, seconds)
    ctx.exit(status.FINE if shown else status.FOUND)


def _settings(port: int | None, ephemeral: PortRange | None, full: bool) -> DemoSettings:
    port, ephemeral = port or DEFAULT_PORT, ephemeral or DEFAULT_RANGE
    if port not in ephemeral:
        raise click.UsageError(
            f"port {port} lies outside the range {ephemeral}, so the kernel never chooses it as source port; "
            f"give a port inside the range"
        )
    return DemoSettings(port, ephemeral, wait=full)


def _natural_settings(port: int | None) -> DemoSettings:
    try:
        ephemeral = read_ephemeral_range()
    except (OSError, ValueError) as error:
        raise Unsupported(f"this system's ephemeral range cannot be read ({reason_of(error)})") from error
    if port is None:
        # connect(2) chooses ports of the low end's parity (Linux 4.2). Not the first one, which others may use.
        port = min(ephemeral.low + 6, ephemeral.high - (ephemeral.high - ephemeral.low) % 2)
    if port not in ephemeral:
        raise click.UsageError(f"port {port} lies outside this machine's ephemeral range {ephemeral}")
    return DemoSettings(port, ephemeral)


def _print_summary(screen: Console, acts: list[DemoAct], seconds: float) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), title_justify="left")
    table.add_column("", justify="right")
    table.add_column("claim", ratio=4)
    table.add_column("measured here", ratio=6)
    table.add_column("")
    for act in acts:
        table.add_row(
            str(act.number), act.claim, act.measured, "[green]yes[/green]" if act.shown else "[red bold]NO[/red bold]"
        )
    screen.print()
    screen.print(table)
    screen.print(f"Measured in {seconds:.1f} s on this kernel.", style="dim")
