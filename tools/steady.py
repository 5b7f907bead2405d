"""Repeated audits of the installed clients, quietly and with every core busy, to find verdicts that change.

    python tools/steady.py --quiet 5 --busy 5 --quick 5 [NAME...]

The quick passes have the limits of ``tailbite audit --quick`` and every core busy. Continues from
docs/data/steady.jsonl, one pass over all clients at a time; ``--fresh`` forgets it, and a client of another
version is begun again. Prints the clients whose verdict was not the same each time; exits with 1 if there are any.

The word ``slow`` stands for eleven clients that take seconds to start or dial several times, the hardest for a busy
machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import track

from tailbite._files import write_atomically
from tailbite.audit.catalogue import load_entries
from tailbite.audit.many import audit_many
from tailbite.audit.records import Limits
from tailbite.lab.record import machine_facts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.audit.client import Client

KEPT = Path(__file__).resolve().parent.parent / "docs/data/steady.jsonl"
JOBS = 3 * (os.cpu_count() or 1)  # as many as the matrix has at a time
KINDS = ("quiet", "busy", "quick")
SLOW = (
    *(
        "asyncua",
        "boto3",
        "celery",
        "dask-client",
        "dask-worker",
        "elasticsearch",
        "nats-py",
        "psycopg",
        "ray-client",
    ),
    *("redis-py", "requests"),
)


@contextlib.contextmanager
def burners() -> Iterator[None]:
    """Keep every core busy with a process each, ended at the end."""
    # A process that lost its parent would burn on, so each compares its parent with the first one.
    script = "import os\nmine = os.getppid()\nwhile os.getppid() == mine:\n    sum(range(100_000))"
    with contextlib.ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", script]))
            stack.callback(process.kill)
        yield


def kept() -> dict[str, dict[str, Any]]:
    """Return the rows of the passes before, by client."""
    if not KEPT.exists():
        return {}
    rows = [json.loads(line) for line in KEPT.read_text(encoding="utf-8").splitlines()[1:]]
    return {row["client"]: row for row in rows}


def save_rows(rows: dict[str, dict[str, Any]]) -> None:
    """Write the rows so far."""
    header = {"schema": "tailbite.steady/1", "machine": machine_facts(), "jobs": JOBS}
    lines = [header, *(rows[name] for name in sorted(rows))]
    write_atomically(KEPT, "".join(json.dumps(line) + "\n" for line in lines))


def one_pass(kind: str, clients: list[Client], rows: dict[str, dict[str, Any]], number: int) -> None:
    """Audit each client once, and add its verdict to its row."""
    limits = Limits.of_quick() if kind == "quick" else Limits()
    with contextlib.nullcontext() if kind == "quiet" else burners():
        verdicts = audit_many(clients, limits, jobs=JOBS)
        for verdict in track(verdicts, f"{kind}, pass {number}", total=len(clients)):
            row = rows.setdefault(verdict.client, {"client": verdict.client, "version": verdict.version})
            told = [verdict.verdict.value, verdict.believed.value]
            row.setdefault(kind, []).append(told)
            save_rows(rows)
            if told != next(row[kind] for kind in KINDS if row.get(kind))[0]:
                print(f"{verdict.client}: {kind}: {', '.join(told)}: {verdict.reason}")


def words_of(row: dict[str, Any], kind: str) -> list[str]:
    """Return the verdicts of a client in the passes of a kind."""
    return [word for word, _ in row.get(kind, ())]


def main() -> int:
    """Make the passes that are missing, and print the verdicts that changed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for kind, default in zip(KINDS, (5, 5, 5), strict=True):
        parser.add_argument(
            f"--{kind}", type=int, default=default, metavar="N", help=f"{kind} passes (default {default})"
        )
    parser.add_argument("--fresh", action="store_true", help="forget the passes before")
    parser.add_argument("names", nargs="*", default=["all"], help="clients, groups, or 'slow' (default: all)")
    options = parser.parse_args()
    rows = {} if options.fresh else kept()
    names = [each for name in options.names for each in (SLOW if name == "slow" else (name,))]
    clients = [client for entry in load_entries(names) if (client := entry.find()) is not None]
    for client in clients:
        # A program that was too busy to tell its version is taken for the one of before.
        if client.version and rows.get(client.name, {}).get("version") != client.version:
            rows.pop(client.name, None)
    for kind in KINDS:
        for number in range(1, getattr(options, kind) + 1):
            wanting = [client for client in clients if len(rows.get(client.name, {}).get(kind, ())) < number]
            if wanting:
                one_pass(kind, wanting, rows, number)
    changed = [row for row in rows.values() if len({word for kind in KINDS for word in words_of(row, kind)}) > 1]
    for row in changed:
        print(f"{row['client']}: " + "; ".join(f"{kind}: {', '.join(words_of(row, kind))}" for kind in KINDS))
    print(f"{len(rows) - len(changed)} of {len(rows)} clients got the same verdict each time")
    return bool(changed)


if __name__ == "__main__":
    sys.exit(main())
