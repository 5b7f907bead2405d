"""Audit of every installed client of the catalogue, written to docs/matrix.md and docs/matrix.json: ``make matrix``.

Verdicts are kept in .matrix.jsonl as they come, so a run that was interrupted continues; ``--fresh`` forgets them,
names of clients or groups audit only those.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tailbite._files import write_atomically
from tailbite.audit.catalogue import CatalogueEntry, load_entries
from tailbite.audit.many import audit_many
from tailbite.audit.records import Limits
from tailbite.audit.report.data import verdict_as_data

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".matrix.jsonl"
JOBS = 3 * (os.cpu_count() or 1)  # an audit waits most of its time

WORDS = {
    "immune": "never connected to itself",
    "aborts": "connected to itself; a server is down for less than 1.5 s",
    "blocks": "let go; a server is down for about a minute, by the TIME-WAIT",
    "holds": "kept it; a server is down for longer, mostly as long as the client runs",
    "unexercised": "never dialled the port",
    "inconclusive": "too little was seen",
    "unsupported": "does not run here",
}


def kept() -> dict[str, dict[str, Any]]:
    """Return the verdicts of the runs before, by client."""
    if not KEPT.exists():
        return {}
    return {row["client"]: row for row in map(json.loads, KEPT.read_text(encoding="utf-8").splitlines())}


def audit(entries: list[CatalogueEntry]) -> None:
    """Audit those that have no verdict yet, or one of another version."""
    before = kept()
    clients = []
    for entry in entries:
        client = entry.find()
        if client is not None and before.get(client.name, {}).get("version") != client.version:
            clients.append(client)
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress, KEPT.open("a", encoding="utf-8") as file:
        task = progress.add_task("auditing", total=len(clients))
        for verdict in audit_many(clients, Limits(), jobs=JOBS):
            data = verdict_as_data(verdict)
            del data["phases"]
            file.write(json.dumps({**data, "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"}) + "\n")
            file.flush()
            progress.update(task, advance=1, description=f"{verdict.client}: {verdict.verdict.value}")


def page(entries: list[CatalogueEntry], verdicts: dict[str, dict[str, Any]]) -> str:
    """Return docs/matrix.md."""
    rows = [(entry, verdicts[entry.name]) for entry in entries if entry.name in verdicts]
    counts = {word: sum(data["verdict"] == word for _, data in rows) for word in WORDS}
    lines = [
        "# Who connects to itself",
        "",
        (
            "Each client of the catalogue at its defaults, in a namespace where a plain client is certain to connect "
            "to itself. `make peers` installs them on Debian, `make matrix` measures them and writes this page and "
            "`matrix.json`. A client that is run otherwise than at its defaults has a note."
        ),
        "",
        (
            f"Measured on Linux {platform.release().split('-')[0]}, Python {platform.python_version()}, "
            f"{max(data['date'] for _, data in rows)}."
        ),
        "",
        "| verdict | clients | what it means |",
        "|---|---|---|",
        *(f"| **{word}** | {counts[word]} | {WORDS[word]} |" for word in WORDS if counts[word]),
        "",
        (
            "*Believed* tells whether the client took itself for the server; *held* is the longest time it stayed "
            "connected to itself while it was watched."
        ),
        "",
    ]
    notes: list[str] = []
    for group in sorted({entry.groups[0] for entry, _ in rows}):
        lines += [
            f"## {group}",
            "",
            "| client | version | verdict | believed | held | left |",
            "|---|---|---|---|---|---|",
        ]
        for entry, data in rows:
            if entry.groups[0] == group:
                held = "-" if data["longest_hold"] is None else f"{data['longest_hold']:.3f} s"
                if entry.differs:
                    notes.append(entry.differs)
                note = f" [{len(notes)}]" if entry.differs else ""
                lines.append(
                    f"| {entry.title}{note} | {data['version'] or '-'} | **{data['verdict']}** | {data['believed']} "
                    f"| {held} | {data['left'] or '-'} |"
                )
        lines.append("")
    if notes:
        lines += ["## Notes", "", *(f"{number}. {note}." for number, note in enumerate(notes, 1)), ""]
    return "\n".join(lines)


def _anywhere(verdict: dict[str, Any]) -> dict[str, Any]:
    """Return the verdict without the folder that a checkout happens to lie in."""
    return {**verdict, "command": [re.sub(r"^/.*/(?=\.(peers|venv)/)", "", word) for word in verdict["command"]]}


def main() -> int:
    """Audit the clients without a verdict, then write both files from all verdicts."""
    words = [word for word in sys.argv[1:] if word != "--fresh"]
    if "--fresh" in sys.argv:
        KEPT.unlink(missing_ok=True)
    audit(load_entries(words or ["all"]))
    entries, verdicts = load_entries(["all"]), kept()
    if not verdicts:
        print("no client of the catalogue is installed here: run make peers")
        return 4
    write_atomically(ROOT / "docs/matrix.md", page(entries, verdicts))
    data = {"schema": "tailbite.matrix/2", "kernel": platform.release().split("-")[0]}
    ordered = [_anywhere(verdicts[entry.name]) for entry in entries if entry.name in verdicts]
    write_atomically(ROOT / "docs/matrix.json", json.dumps({**data, "clients": ordered}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
