"""docs/kernels.md: the table between its two marks is written from docs/data/kernels.json; the rest is by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kernels.records import KERNELS, Cell

if TYPE_CHECKING:
    from pathlib import Path

    from kernels.boot import Result

__all__ = ["keep_result", "table", "write_page"]

BEGIN, END = "<!-- begin: make kernels -->", "<!-- end: make kernels -->"
MARKS = {"ok": "ok", "fault": "**fault**", "not run": "–"}


def keep_result(data: Path, name: str, result: Result, date: str) -> None:
    """Replace one kernel's results in the data file; cells that were not part of this run are kept."""
    known: dict[str, Any] = json.loads(data.read_text(encoding="utf-8")) if data.exists() else {}
    rows = {cell["row"]: cell for cell in known.get(name, {}).get("cells", [])}
    if known.get(name, {}).get("release") != result.release:
        rows = {}
    rows |= {cell.row: cell.as_data() for cell in result.cells}
    known[name] = {"release": result.release, "date": date, "cells": list(rows.values())}
    data.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_page(page: Path, data: Path) -> None:
    """Put the table of the data between the marks of the page."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    known = json.loads(data.read_text(encoding="utf-8"))
    page.write_text(f"{before}{BEGIN}\n{table(known)}\n{END}{after}", encoding="utf-8")


def table(known: dict[str, Any]) -> str:
    """Return the tables: abilities, cells, and what each cell saw."""
    names = [name for name in ("host", *(kernel.name for kernel in KERNELS)) if name in known]
    why = {kernel.name: kernel.why for kernel in KERNELS} | {"host": "the machine that ran `make kernels`"}
    cells = {name: {cell["row"]: Cell(**cell) for cell in known[name]["cells"]} for name in names}
    rows = list(dict.fromkeys(row for name in names for row in cells[name]))
    abilities = [row for row in rows if row.startswith("ability ")]
    runs = [row for row in rows if row not in abilities]
    head = ["", *(f"{name} {known[name]['release'].split('-')[0]}" for name in names)]
    lines = ["| kernel | release | seen on | stands for |", "|---|---|---|---|"]
    lines += [f"| {name} | {known[name]['release']} | {known[name]['date']} | {why[name]} |" for name in names]
    lines += [
        "",
        "What the kernel itself answers when it is asked:",
        "",
        *_grid(head, abilities, names, cells, _ability),
    ]
    lines += [
        "",
        "What was run on it:",
        "",
        *_grid(head, runs, names, cells, _mark),
        "",
        "What was seen, cell by cell:",
    ]
    for name in names:
        lines += ["", f"## {name}: {known[name]['release']}", "", "| run | result | seen |", "|---|---|---|"]
        for row in runs:
            cell = cells[name].get(row, Cell(row, "not run", "not part of this run"))
            lines.append(f"| {row} | {MARKS[cell.outcome]} | {cell.detail.replace('|', '/')} |")
    return "\n".join(lines)


def _grid(
    head: list[str], rows: list[str], names: list[str], cells: dict[str, dict[str, Cell]], show: Any
) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        shown = [show(cells[name].get(row)) for name in names]
        lines.append(f"| {row.removeprefix('ability ')} | {' | '.join(shown)} |")
    return lines


def _ability(cell: Cell | None) -> str:
    return cell.detail if cell is not None else "?"


def _mark(cell: Cell | None) -> str:
    return MARKS[cell.outcome] if cell is not None else "–"
