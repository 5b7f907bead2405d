"""The tables of ``tailbite audit``: verdicts, and the list of the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tailbite.audit.language import cure_of
from tailbite.audit.sentences import seconds
from tailbite.audit.verdict import Belief, Figure, Remains, Word
from tailbite.cli.output import console, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.audit.catalogue import CatalogueEntry
    from tailbite.audit.client import Client
    from tailbite.audit.verdict import Timing, Verdict

__all__ = ["print_catalogue", "print_verdicts"]

_STYLES: Final = {
    Word.IMMUNE: "green",
    Word.ABORTS: "yellow",
    Word.BLOCKS: "red",
    Word.HOLDS: "bold red",
}
_MOST_EXPLAINED = 3
"""Clients whose reason is printed below the table, beside those that got no verdict."""


def print_verdicts(verdicts: Sequence[Verdict], *, recovery: bool) -> None:
    """Print the table, and the reasons: of every client if there are few, else of those without a verdict."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("client", overflow="fold")
    table.add_column("verdict")
    table.add_column("believed")
    table.add_column("times", justify="right")
    table.add_column("held", justify="right")
    table.add_column("left", no_wrap=True)
    if recovery:
        table.add_column("down", justify="right")
        table.add_column("back", justify="right")
    for verdict in verdicts:
        row: list[str | Text] = [
            Text(plain(verdict.client)),
            Text(verdict.verdict.value, _STYLES.get(verdict.verdict, "")),
            "-" if verdict.believed is Belief.UNKNOWN and not verdict.self_connects else verdict.believed.value,
            str(verdict.self_connects),
            _held(verdict),
            verdict.left.value if verdict.left else "-",
        ]
        if recovery:
            row += [_down(verdict), _timing(verdict.recovered_after)]
        table.add_row(*row)
    out = console()
    out.print(table)
    if recovery:
        out.print("\ndown: how long a server could not start, plain / with SO_REUSEADDR; back: the client is on it.")
    for verdict in verdicts:
        if len(verdicts) <= _MOST_EXPLAINED or _is_no_verdict(verdict):
            _print_reason(verdict)


def _is_no_verdict(verdict: Verdict) -> bool:
    return verdict.verdict in (Word.UNEXERCISED, Word.INCONCLUSIVE)


def _print_reason(verdict: Verdict) -> None:
    from rich.text import Text

    out = console()
    image = f" (image {verdict.image})" if verdict.image else ""
    out.print()
    out.print(Text(plain(f"{verdict.client}{image}: {verdict.reason}.")))
    for trouble in verdict.troubles:
        if verdict.reason not in trouble:
            out.print(Text(plain(f"  Trouble in {trouble}.")))
    for timing in (verdict.server_down, verdict.server_down_plain, verdict.recovered_after):
        if timing.outcome is Figure.NOT_MEASURED and not timing.reason.startswith("beside"):
            out.print(Text(plain(f"  Recovery was not measured: {timing.reason}.")))
            break
    if language := cure_of(verdict):
        out.print(Text(f"  The cure, with an example: tailbite audit --cure {language}"))


def _held(verdict: Verdict) -> str:
    if verdict.longest_hold is None:
        return "-"
    more = ">" if verdict.left is Remains.ESTABLISHED else ""
    return f"{more}{seconds(verdict.longest_hold)}"


def _down(verdict: Verdict) -> str:
    if verdict.server_down.outcome is not Figure.NOT_ASKED:
        return _timing(verdict.server_down)
    plain_down, reuse_down = map(_timing, (verdict.server_down_plain, verdict.server_down_reuse))
    return plain_down if plain_down == reuse_down else f"{plain_down} / {reuse_down}"


def _timing(timing: Timing) -> str:
    if timing.outcome is Figure.MEASURED:
        return f"{timing.seconds or 0.0:.1f} s"
    if timing.outcome is Figure.LONGER:
        return f">{timing.seconds or 0.0:.0f} s"
    return {Figure.NEVER: "never", Figure.NOT_MEASURED: "not measured"}.get(timing.outcome, "-")


def print_catalogue(found: Sequence[tuple[CatalogueEntry, Client | None]]) -> None:
    """Print the entries of the catalogue, with the version of what is installed, or where to get the rest."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("client", "groups", "version", "or install"):
        table.add_column(heading, overflow="fold")
    for entry, client in found:
        table.add_row(
            entry.name,
            ", ".join(entry.groups),
            (client.version or "installed") if client else "-",
            Text("" if client else entry.install),
        )
    console().print(table)
