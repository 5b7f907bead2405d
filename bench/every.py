"""Run every benchmark, keep their results as JSON lines, and write docs/performance.md from them.

``make bench`` runs all; ``python bench/every.py connect guards`` runs these two and keeps the results of the
others; ``--write`` runs none and writes the page from the kept results. A benchmark that breaks, hangs or misses a
promise does not stop the others: the page shows it, the last lines of the output name it, and the exit status is 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from textwrap import fill
from time import perf_counter
from typing import Any

from paired import Ratio, times

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "data" / "bench.jsonl"
PAGE = ROOT / "docs" / "performance.md"
PATIENCE = 600.0
"""Seconds after which a benchmark hangs; the longest takes two minutes."""

HEAD = """\
# Performance

`make bench` writes this page from [data/bench.jsonl](data/bench.jsonl); do not edit it.

Each row compares two things in one run on one machine: a plain alternative, and tailbite. They run in turn, block by
block, in private network namespaces over loopback.

- *plain* and *tailbite* are the medians of one operation.
- *ratio* is the median of the ratios of neighbouring blocks, and *quartiles* are the first and third quartile of
  these ratios. A noisy machine slows both sides of a pair, so the ratio varies less than the times. If the machine
  has more work than CPUs, the quartiles are wide, and the ratio is no more precise than they are.
- *once* means that the row was measured one time.
- *promised* is the limit that tailbite sets itself, and says whether this run kept it.

If two days were measured, the newer one comes first.
"""

ABOUT = {
    "connect": (
        "A program connects to a listener and closes the connection, with the standard library's function and"
        " with tailbite's function of the same name. The last two rows compare each with a bare "
        "`socket.connect`."
    ),
    "crowd": (
        "The commands on a host with 5 000 processes, 500 network namespaces and 100 000 TIME-WAITs, beside a "
        "shell loop that enters each namespace and lists its sockets (`nsenter`, `ss -Htan`), and looks for "
        "nothing. The time is CPU time of all processes."
    ),
    "doctor": (
        "`tailbite doctor` without `--ports` (*plain*) beside `tailbite doctor --ports` for many ports. The "
        "time is CPU time of the whole process."
    ),
    "guards": (
        "A Python program connects without a guard and with each of the [guards](guards.md). *In the range* "
        "means that the destination port lies in the ephemeral range, *outside* that it does not. *Refused* "
        "means that nobody listens. *The smallest hook* is an audit hook that makes the same three system "
        "calls as `guard()` and nothing else. *Beside C* compares with the smallest supervisor in C "
        "(`bench/floor.c`). In the first row, both times are what the supervisor adds to a plain connect."
    ),
    "lab": "The experiments of `tailbite lab` beside the slower way to get the same numbers.",
    "languages": (
        "`tailbite.create_connection` beside a connect in another language, and programs in these languages "
        "without and with `tailbite run`."
    ),
    "scan": (
        "`tailbite scan` as a whole process beside other ways to find self-connects in the same table of "
        "sockets. A few self-connects are among the sockets, and each way must find them. Only `ss -Htan` "
        "alone does not look for any."
    ),
    "startup": "Python that does nothing beside the start of tailbite. Each is a process of its own.",
    "watch": (
        "Costs of [`tailbite watch` and `tailbite exporter`](watch.md). *Part of a CPU* compares the CPU time"
        " that was used with the time that passed. *Nothing twice* compares the machine with itself, so it "
        "shows the noise."
    ),
}
"""The sides that a benchmark compares, by the name of its script: the words that its rows use."""


def scripts() -> list[Path]:
    """Return the benchmarks of this folder that give ratios; endurance, fallback and held count connects."""
    return [
        path
        for path in sorted(Path(__file__).parent.glob("*.py"))
        if path.name != Path(__file__).name and "\nfrom paired import" in path.read_text(encoding="utf-8")
    ]


def run(chosen: list[Path]) -> None:
    """Run these benchmarks, and keep each result as soon as it exists."""
    results = {result["script"]: result for result in kept_results()}
    for number, script in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] bench/{script.name}", file=sys.stderr, flush=True)
        start, busy = perf_counter(), os.getloadavg()[0]
        result = measured(script)
        if "facts" in result:
            result["facts"]["load"] = round(busy, 1)
        result = {"script": f"bench/{script.name}", "date": datetime.now(UTC).date().isoformat(), **result}
        results[f"bench/{script.name}"] = with_earlier(result, results.get(f"bench/{script.name}"))
        print(f"  {perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        there = [f"bench/{one.name}" for one in scripts()]
        lines = [json.dumps(results[name]) for name in there if name in results]
        RESULTS.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def with_earlier(result: dict[str, Any], kept: dict[str, Any] | None) -> dict[str, Any]:
    """Keep the result of another day beside that of today: one day's machine is one sample."""
    if kept is None or "failed" in kept:
        return result
    if kept.get("date") == result["date"]:
        return {**result, "earlier": kept["earlier"]} if "earlier" in kept else result
    return {**result, "earlier": {name: value for name, value in kept.items() if name != "earlier"}}


def measured(script: Path) -> dict[str, Any]:
    """Run one benchmark and return its result; without one, ``failed`` says why."""
    try:
        done = subprocess.run(
            [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"it was not done after {PATIENCE:.0f} s"}
    try:
        result: dict[str, Any] = json.loads(done.stdout.rstrip().rpartition("\n")[2])
    except ValueError:
        return {"failed": f"it ended with status {done.returncode} and without a result"}
    return result


def page(results: list[dict[str, Any]]) -> str:
    """Return docs/performance.md."""
    parts = [HEAD]
    for newest in results:
        name = Path(newest["script"]).stem
        title = newest.get("benchmark", f"`{newest['script']}`")
        parts.append(f"\n## {title[0].upper()}{title[1:]}\n".removeprefix("" if len(parts) == 1 else "\n"))
        parts += [f"{fill(ABOUT[name], 119)}\n"] if name in ABOUT else []
        for result in (newest, newest.get("earlier")):
            parts += _one_day(result) if result is not None else []
    missing = {f"bench/{script.name}" for script in scripts()} - {result["script"] for result in results}
    if missing:
        parts.append(f"\nNot part of this run: {', '.join(f'`{name}`' for name in sorted(missing))}.")
    return "\n".join(parts).rstrip("\n") + "\n"


def _one_day(result: dict[str, Any]) -> list[str]:
    """Return the lines about one run of one benchmark."""
    if "failed" in result:
        return [f"**No result**: {result['failed']}.\n"]
    facts = result["facts"]
    of_day = f"{result['date']}: " if "date" in result else ""
    lines = [
        fill(
            f"{of_day}`python {result['script']}`, Linux {facts['kernel'].split('-')[0]}, {facts['machine']}, "
            f"{facts['cpus']} CPUs, Python {facts['python']} ({facts['python_is']}), "
            f"load average before the run {facts['load']}",
            119,
        ),
        "",
        "| | plain | tailbite | ratio | quartiles | promised |\n|---|--:|--:|--:|--:|---|",
        *(_row(Ratio(**figure)) for figure in result["figures"]),
        "",
    ]
    for name, value in result.items():
        if name not in ("benchmark", "script", "facts", "figures", "date", "earlier"):
            text = name.replace("_", " ")
            lines.append(f"{text[0].upper()}{text[1:]}: {_value(value)}\n")
    return lines


def _row(figure: Ratio) -> str:
    promise = f"{figure.promise}: {'kept' if figure.is_met else '**not kept**'}" if figure.promise else ""
    quartiles = f"{times(figure.low)} to {times(figure.high)}" if figure.low < figure.high else "once"
    if figure.plain_us == 0:  # nothing to compare with
        return f"| {figure.name} | – | {figure.plain_and_guarded[1]} | – | once | {promise} |"
    took = " | ".join(figure.plain_and_guarded)
    ratio = times(figure.ratio) if figure.is_met else f"{figure.ratio:.4f}"  # 1.0504 misses 1.05
    return f"| {figure.name} | {took} | {ratio} | {quartiles} | {promise} |"


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {number:,}" for name, number in value.items())
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def broken(results: list[dict[str, Any]]) -> list[str]:
    """Return a line for each benchmark that failed and for each promise that was not kept."""
    found = [f"{result['script']}: {result['failed']}" for result in results if "failed" in result]
    for result in results:
        figures = [Ratio(**figure) for figure in result.get("figures", ())]
        found += [
            f"{result['script']}: {one.name}: promised: {one.promise}; "
            f"measured: {' and '.join(one.plain_and_guarded)}, x{times(one.ratio)}"
            for one in figures
            if not one.is_met
        ]
    return found


def kept_results() -> list[dict[str, Any]]:
    """Return the results of the last runs."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Run the benchmarks, write the page, and exit with status 1 unless every promise was kept."""
    by_name = {script.stem: script for script in scripts()}
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    names = [name for name in sys.argv[1:] if name != "--write"]
    if unknown := set(names) - set(by_name):
        sys.exit(f"no benchmark is called {', '.join(sorted(unknown))}; there are: {', '.join(by_name)}")
    if "--write" not in sys.argv[1:]:
        try:
            run([by_name[name] for name in names or by_name])
        except KeyboardInterrupt:
            print("interrupted; what was measured is kept", file=sys.stderr)
            sys.exit(130)
    PAGE.write_text(page(kept_results()), encoding="utf-8")
    print(f"results: {RESULTS.relative_to(ROOT)}; page: {PAGE.relative_to(ROOT)}")
    failures = broken(kept_results())
    for line in failures:
        print(f"NOT KEPT: {line}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
