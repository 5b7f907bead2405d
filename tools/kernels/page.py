"""docs/kernels.md: page.md, with the tables of docs/data/kernels.json in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernels.records import KERNELS, VM_LEAVES_OUT

if TYPE_CHECKING:
    from kernels.boot import Result

__all__ = ["keep_result", "render_page", "write_page"]

TEMPLATE = Path(__file__).with_name("page.md")
MARKS = {"ok": "ok", "fault": "**fault**", "not run": "–"}
LACKS = ("the kernel lacks", "the kernel is built without")
IN_TIME = "counts what a machine manages in a time, and qemu without KVM manages a tenth"
OWN_TESTS = "the project's own tests run on User Mode Linux, and on this machine's kernel by `make test`"
LATER = "not run on this kernel yet"


def keep_result(data: Path, name: str, result: Result, date: str) -> None:
    """Replace one kernel's results in the data file.

    Cells that were not part of this run are kept with their own date, unless they are of another release or the row
    no longer exists.
    """
    known: dict[str, Any] = json.loads(data.read_text(encoding="utf-8")) if data.exists() else {}
    rows = {cell["row"]: cell for cell in known.get(name, {}).get("cells", [])}
    if known.get(name, {}).get("release") != result.release:
        rows = {}
    rows |= {cell.row: {**cell.as_data(), "date": date} for cell in result.cells}
    kept = [cell for row, cell in rows.items() if row in result.rows or row.startswith("tests/")]
    order = {row: place for place, row in enumerate(result.rows)}
    kept.sort(key=lambda cell: (order.get(cell["row"], len(order)), cell["row"]))
    known[name] = {"release": result.release, "cells": kept}
    data.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_page(page: Path, data: Path) -> None:
    """Write the whole page."""
    page.write_text(render_page(json.loads(data.read_text(encoding="utf-8"))), encoding="utf-8")


def render_page(known: dict[str, Any]) -> str:
    """Return the page: abilities, cells, and what each cell saw."""
    names = [name for name in ("host", *(kernel.name for kernel in KERNELS)) if name in known]
    cells = {name: {cell["row"]: cell for cell in known[name]["cells"]} for name in names}
    rows = list(dict.fromkeys(row for name in names for row in cells[name]))
    abilities = [row for row in rows if row.startswith("ability ")]
    runs = sorted((row for row in rows if row not in abilities), key=lambda row: row.startswith("tests/"))
    head = ["", *(f"{name} {_short(known[name]['release'])}" for name in names)]
    parts = [
        *_kernels(known, names),
        "\nThe abilities of each kernel, as the kernel itself answers:\n",
        *_grid(head, abilities, [cells[name] for name in names], _ability),
        "\nThe runs on each kernel:\n",
        *_grid(head, runs, [cells[name] for name in names], _mark),
        "\nThe results in detail:",
    ]
    for name in names:
        parts += _details(f"{name}: {known[name]['release']}", cells[name], runs)
    return TEMPLATE.read_text(encoding="utf-8").replace("{tables}", "\n".join(parts))


def _kernels(known: dict[str, Any], names: list[str]) -> list[str]:
    why = {kernel.name: kernel.why for kernel in KERNELS} | {"host": "the machine that ran `make kernels`"}
    lines = ["| kernel | release | seen on | stands for |", "|---|---|---|---|"]
    for name in names:
        dates = sorted({cell["date"] for cell in known[name]["cells"]})
        lines.append(
            f"| {name} | {known[name]['release']} | {' to '.join(dates[:1] + dates[1:][-1:])} | {why[name]} |"
        )
    return lines


def _details(title: str, cells: dict[str, Any], runs: list[str]) -> list[str]:
    missing = [row for row in runs if row not in cells]
    lines = ["", f"## {title}", "", "| run | result | seen |", "|---|---|---|"]
    for row in (row for row in runs if row in cells):
        cell = cells[row]
        lines.append(f"| {row} | {_mark(cell)} | {cell['detail'].replace('|', '/')} |")
    reasons: dict[str, list[str]] = {}
    for row in missing:
        reasons.setdefault(_why_missing(title, row), []).append(row)
    return [*lines, *(f"\nNot run: {'; '.join(rows)}. Reason: {why}." for why, rows in reasons.items())]


def _why_missing(kernel: str, row: str) -> str:
    if row.startswith("tests/"):
        return LATER if kernel.startswith("uml") else OWN_TESTS
    return IN_TIME if kernel.startswith("vm") and row in VM_LEAVES_OUT else LATER


def _grid(head: list[str], rows: list[str], columns: list[dict[str, Any]], show: Any) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        shown = [show(cells.get(row)) for cells in columns]
        lines.append(f"| {row.removeprefix('ability ')} | {' | '.join(shown)} |")
    return lines


def _short(release: str) -> str:
    return release.split("-")[0]


def _ability(cell: dict[str, Any] | None) -> str:
    return "?" if cell is None else str(cell["detail"])


def _mark(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return MARKS["not run"]
    is_lacking = cell["outcome"] == "not run" and cell["detail"].startswith(LACKS)
    return "lacks" if is_lacking else MARKS[cell["outcome"]]
