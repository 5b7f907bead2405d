"""The tables of ``tailbite report``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from tailbite.cli.output import plain
from tailbite.core.ports import shortened
from tailbite.fleet.page import utc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from tailbite.fleet.records import FleetReport

__all__ = ["report_tables"]

_MOST_ROWS = 40


def report_tables(report: FleetReport) -> Iterator[RenderableType]:
    """Yield what to print, in its order."""
    affected = len({(one.group, one.host) for one in report.self_connects})
    exposed = sum(group.exposed_hosts for group in report.groups)
    yield Text(f"{report.hosts} hosts, taken {utc(report.oldest)} to {utc(report.newest)}")
    yield Text(f"{affected} with a self-connect now, {exposed} of {report.examined} examined with an exposed service")
    if report.self_connects:
        yield Text()
        yield _table(
            ("Connected to itself on", "Endpoint", "State", "Program"),
            [
                (f"{one.group}/{one.host}" if one.group else one.host, one.endpoint, one.state, one.unit or one.owner)
                for one in report.self_connects
            ],
        )
    if report.exposures:
        yield Text()
        yield _table(
            ("Exposed ports", "Hosts", "Programs"),
            [
                (shortened(str(e.ports)), str(e.hosts), ", ".join(e.programs) or "not running")
                for e in report.exposures
            ],
        )
    for group in report.groups:
        if group.reserve:
            yield Text()
            yield Text(plain(f"{group.name or 'all hosts'} ({group.hosts}):"), style="bold")
            yield Text(f"  tailbite fix --reserve {group.reserve} --apply")


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(head, overflow="fold", justify="right" if head == "Hosts" else "left")
    for row in rows[:_MOST_ROWS]:
        table.add_row(*map(plain, row))
    if len(rows) > _MOST_ROWS:
        table.add_row(f"... {len(rows) - _MOST_ROWS} more (--csv, --html and --json have all)")
    return table
