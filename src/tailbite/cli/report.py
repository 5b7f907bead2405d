"""``tailbite report``: one table out of what scan and doctor printed on many hosts."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tailbite._files import write_atomically
from tailbite._version import __version__
from tailbite.cli import status
from tailbite.cli.output import as_json, emit_json, note

if TYPE_CHECKING:
    from tailbite.fleet.records import FleetReport

__all__ = ["command"]

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("report")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--html", "page_file", type=_FILE, metavar="FILE", help="Also write a page for a browser; it loads nothing."
)
@click.option("--csv", "csv_file", type=_FILE, metavar="FILE", help="Also write a row for each finding of each host.")
@click.option("-j", "--json", "as_document", is_flag=True, help="Print one JSON document instead of the tables.")
def command(folder: Path, page_file: Path | None, csv_file: Path | None, as_document: bool) -> int:
    """Show which of many hosts have a self-connect now, which services are exposed, and what to reserve.

    DIR holds what `tailbite scan --json` and `tailbite doctor --json` printed on each host: HOST.json, HOST.scan.json
    and HOST.doctor.json, or HOST/scan.json and HOST/doctor.json. A folder around them is a group: each group gets one
    list of ports to reserve, so that its hosts stay alike. Nothing is changed anywhere.

    \b
    Examples:
      tailbite doctor --json > facts/$(hostname).json       # on each host
      tailbite report facts
      tailbite report facts --html report.html --csv report.csv

    Exit status: 0 nothing found, 1 a self-connect or an exposed service, 2 wrong usage or no document in DIR,
    3 nothing found but not everything could be read.
    """
    report = _read(folder)
    if not report.hosts:
        for one in report.unread[:5]:
            note(f"{one.path}: {one.reason}")
        raise click.UsageError(f"{folder} has no JSON document of tailbite scan or tailbite doctor.")
    for file, text in ((page_file, _page), (csv_file, _csv)):
        if file is not None:
            _write(file, text(report))
    if as_document:
        emit_json("report", **as_json(report))
    else:
        from tailbite.cli.output import console
        from tailbite.cli.show.report import report_tables

        for part in report_tables(report):
            console().print(part)
    for one in report.unread:
        note(f"not used: {one.path}: {one.reason}")
    if report.self_connects or report.exposures:
        return status.FOUND
    return status.PARTLY_VISIBLE if report.unread or report.incomplete else status.FINE


def _read(folder: Path) -> FleetReport:
    from tailbite.fleet.merge import Merger
    from tailbite.fleet.read import files_by_host, read_host

    files, unlisted = files_by_host(folder)
    merger = Merger(unread=unlisted)
    for (group, name), paths in files.items():
        host, unread = read_host(group, name, paths)
        merger.unread += unread
        if host is not None:
            merger.add(host)
    return merger.report()


def _write(file: Path, text: str) -> None:
    try:
        write_atomically(file, text)
    except OSError as error:
        raise click.UsageError(f"{file} cannot be written: {error.strerror}") from None


def _page(report: FleetReport) -> str:
    from tailbite.fleet.page import fleet_page

    return fleet_page(report, version=__version__, now=time.time())


def _csv(report: FleetReport) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["kind", "group", "host", "port", "endpoint", "state", "program", "unit", "hosts"])
    rows: list[list[object]] = [
        ["self-connect", one.group, one.host, one.port, one.endpoint, one.state, one.owner, one.unit, 1]
        for one in report.self_connects
    ]
    rows += [
        ["exposed", "", "", str(one.ports), "", "", " ".join(one.programs), "", one.hosts] for one in report.exposures
    ]
    writer.writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def _harmless(value: object) -> object:
    """Return a cell that no spreadsheet takes for a formula: names of programs are chosen by others."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value
