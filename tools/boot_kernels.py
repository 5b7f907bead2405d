"""Boots other kernels and runs the product on each: ``make kernels``.

Results go to docs/data/kernels.json and docs/kernels.md. A kernel whose packages cannot be fetched is skipped, and
the output says so.

``--ci`` runs the traps, the commands and the project's own tests on one kernel, in two instances
at the same time. It writes nothing, and a cell that did not run is a fault. With CI=true in the environment a kernel
that cannot be fetched is a fault, too.

Exit status: 0 fine, 1 a fault was seen or a kernel did not run its job to the end, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernels.boot import fetch_kernel, run_on
from kernels.packages import PackageUnavailableError
from kernels.page import keep_result, write_page
from kernels.records import HOST, KERNELS, VM_LEAVES_OUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernels.boot import Result
    from kernels.records import Kernel

ROOT = Path(__file__).parent.parent
DATA = ROOT / "docs/data/kernels.json"
PAGE = ROOT / "docs/kernels.md"

CI_KERNEL = "uml-5.10"
CI_SECONDS = 1500
CI_ROWS = (
    *("demo", "trap: create_connection", "trap: open_connection", "trap: guard()", "source ports used"),
    *("run", "run, client binds port 0", "run --port", "run -v under a pipe", "scan", "why", "fix --kill, TIME-WAIT"),
    *("watch", "watch --kill", "exporter", "check", "lab handshake"),
)
CI_RUN = {"connects": 500, "connections": 5500}
"""Half of the connections: still more than the range has source ports."""
VM_RUN = {"connections": 1100, "source_ports": 500, "hits": 15}
"""Under qemu without KVM a connect takes ten times as long, so there are a tenth of the connections and ports."""
CI_TESTS = ("tests/core", "tests/kernel", "tests/connect")
ALL_TESTS = (
    *("tests/core", "tests/kernel", "tests/connect", "tests/dial", "tests/guards", "tests/host", "tests/lab"),
)


def jobs(kernel: Kernel, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the jobs for inside.py, which are run at the same time."""
    if options.ci:
        job = {"seconds": options.seconds or CI_SECONDS, "run": CI_RUN}
        return [{**job, "rows": list(CI_ROWS), "tests": []}, {**job, "rows": [], "tests": list(CI_TESTS)}]
    if options.shell:
        job = {"seconds": options.seconds or 600, "run": {}, "rows": [], "tests": []}
        return [{**job, "shell": options.shell}]
    run: dict[str, int] = dict(VM_RUN) if kernel.way == "vm" else {}
    if options.connects:
        run |= {"connects": options.connects}
    leave_out = VM_LEAVES_OUT if kernel.way == "vm" and not options.rows else ()
    rows = [] if options.tests and not options.rows else options.rows
    tests = options.tests or ([] if options.rows or options.no_tests else list(ALL_TESTS))
    return [{"seconds": options.seconds or 3000, "run": run, "rows": rows, "tests": tests, "leave_out": leave_out}]


def run(kernel: Kernel, options: argparse.Namespace) -> list[Result]:
    """Run the jobs of one kernel and print their cells; no results if it is not available here."""
    print(f"{kernel.name}: {kernel.why}", flush=True)
    work = jobs(kernel, options)
    try:
        fetch_kernel(kernel, options.store)
    except PackageUnavailableError as error:
        print(f"  skipped: {error}", flush=True)
        return []
    with ThreadPoolExecutor(len(work)) as pool:
        limits = [job["seconds"] * 1.2 + 120 for job in work]
        results = list(pool.map(run_on, [kernel] * len(work), [options.store] * len(work), work, limits))
    for result in results:
        _print_result(result, options.verbose)
    return results


def _print_result(result: Result, is_verbose: bool) -> None:
    for cell in result.cells:
        print(f"  {cell.outcome:8} {cell.row}: {cell.detail} ({cell.seconds} s)", flush=True)
    if not result.complete:
        print("  fault    the job did not run to its end", flush=True)
    if result.output:
        print(result.output, flush=True)
    if is_verbose or _has_fault(result):
        print(f"  its console:\n{result.console}", flush=True)


def _has_fault(result: Result) -> bool:
    return not result.complete or any(cell.outcome == "fault" for cell in result.cells)


def has_failed(results: Sequence[Result], options: argparse.Namespace) -> bool:
    """Tell whether a kernel's results are a failure of this run."""
    if not results:
        return bool(options.ci and os.environ.get("CI", "").lower() == "true")
    fine = {cell.row for result in results for cell in result.cells if cell.outcome == "ok"}
    return any(map(_has_fault, results)) or (options.ci and not fine.issuperset((*CI_ROWS, *CI_TESTS)))


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [kernel.name for kernel in (HOST, *KERNELS)]
    parser.add_argument("only", nargs="*", metavar="KERNEL", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--ci", action="store_true", help=f"{CI_KERNEL} only, what matters most, nothing is written")
    parser.add_argument("--rows", action="append", metavar="ROW", help="only this row of the page, may be repeated")
    parser.add_argument(
        "--tests", action="append", metavar="PATH", help="only these of the project's own tests, may be repeated"
    )
    parser.add_argument("--no-tests", action="store_true", help="leave the project's own tests out")
    parser.add_argument("--seconds", type=float, help="time for the job of each kernel")
    parser.add_argument(
        "--connects",
        type=int,
        help="number of connects in each trap; default: 500",
    )
    parser.add_argument(
        "--store", type=Path, default=ROOT / ".kernels", help="folder for packages, kept between runs"
    )
    parser.add_argument(
        "--page", action="store_true", help="write docs/kernels.md from the stored results, boot none"
    )
    parser.add_argument(
        "--shell",
        metavar="COMMAND",
        help="run this command of the shell in the repository, and nothing else",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print the console of each kernel")
    options = parser.parse_args(words)
    if unknown := set(options.only) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: not a kernel of the list; write one of {', '.join(names)}")
    options.only = [CI_KERNEL] if options.ci else options.only or names
    return options


def main() -> int:
    options = parse()
    failed = False
    for kernel in (HOST, *KERNELS):
        if kernel.name not in options.only or options.page:
            continue
        results = run(kernel, options)
        failed |= has_failed(results, options)
        for result in results:
            if not options.ci and not options.shell and result.release:
                keep_result(DATA, kernel.name, result, datetime.datetime.now(datetime.UTC).date().isoformat())
    if not options.ci and not options.shell:
        write_page(PAGE, DATA)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
