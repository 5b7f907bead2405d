"""The tables of a report say how many rows they leave out."""

from __future__ import annotations

from rich.console import Console

from tailbite.cli.show.report import report_tables
from tailbite.core.ports import PortSet
from tailbite.fleet.records import Exposure, FleetReport


def test_a_long_table_is_cut_and_says_so() -> None:
    rows = tuple(Exposure(PortSet.of([40000 + 2 * number]), 1, ()) for number in range(60))
    console = Console(width=80, record=True)
    for part in report_tables(FleetReport(1, 0, 1, 0, 0, (), rows, ())):
        console.print(part)
    text = console.export_text()
    assert "40078" in text
    assert "40080" not in text
    assert "... 20 more (--csv, --html and --json have all)" in text
    assert max(map(len, text.splitlines())) <= 80
