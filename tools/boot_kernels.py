"""Boots other kernels and runs the product on each: ``make kernels``.

Results go to docs/data/kernels.json and docs/kernels.md. A kernel whose packages cannot be fetched is skipped, and
the output says so.

``--ci`` runs the traps and the commands on one kernel, without the project's own tests, within four minutes. It
writes nothing, and a cell that did not run is a fault.

Exit status: 0 fine, 1 a fault was seen or a kernel did not run its job to the end, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernels.boot import run_on
from kernels.packages import PackageUnavailableError
from kernels.page import keep_result, write_page
from kernels.records import HOST, KERNELS

if TYPE_CHECKING:
    from kernels.boot import Result
    from kernels.records import Kernel

ROOT = Path(__file__).parent.parent
DATA = ROOT / "docs/data/kernels.json"
PAGE = ROOT / "docs/kernels.md"

CI_KERNEL = "uml-5.10"
CI_LIMIT = 235
CI_ROWS = (
    *("demo", "trap: create_connection", "trap: open_connection", "trap: guard()", "source ports used"),
    *("run", "run, client binds port 0", "run --port", "run -v under a pipe", "scan", "why", "fix --kill, TIME-WAIT"),
)
ALL_TESTS = (
    *("tests/core", "tests/kernel", "tests/connect", "tests/dial"),
    *("tests/guards/python", "tests/guards/program", "tests/host", "tests/readiness"),
)


def job(options: argparse.Namespace) -> dict[str, Any]:
    """Return the job for inside.py."""
    if options.ci:
        return {"seconds": options.seconds or 180, "connects": 500, "rows": list(CI_ROWS), "tests": []}
    tests = [] if options.rows or options.no_tests else list(ALL_TESTS)
    return {"seconds": options.seconds or 1500, "connects": 500, "rows": options.rows, "tests": tests}


def run(kernel: Kernel, options: argparse.Namespace) -> Result | None:
    """Run one kernel and print its cells; None if it is not available here."""
    print(f"{kernel.name}: {kernel.why}", flush=True)
    work = job(options)
    try:
        limit = CI_LIMIT if options.ci else work["seconds"] * 1.5 + 120
        result = run_on(kernel, options.store, work, limit)
    except PackageUnavailableError as error:
        print(f"  skipped: {error}", flush=True)
        return None
    for cell in result.cells:
        print(f"  {cell.outcome:8} {cell.row}: {cell.detail} ({cell.seconds} s)", flush=True)
    if not result.complete:
        print(f"  fault    the job did not run to its end; the console says:\n{result.console}", flush=True)
    elif options.verbose or any(cell.row == "tests" and cell.outcome == "fault" for cell in result.cells):
        print(result.console)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [kernel.name for kernel in (HOST, *KERNELS)]
    parser.add_argument("only", nargs="*", metavar="KERNEL", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--ci", action="store_true", help=f"{CI_KERNEL} only, what matters most, nothing is written")
    parser.add_argument("--rows", action="append", metavar="ROW", help="only this row of the page, may be repeated")
    parser.add_argument("--no-tests", action="store_true", help="leave the project's own tests out")
    parser.add_argument("--seconds", type=float, help="time for the job of each kernel")
    parser.add_argument(
        "--store", type=Path, default=ROOT / ".kernels", help="folder for packages, kept between runs"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print the console of each kernel")
    options = parser.parse_args()
    if unknown := set(options.only) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: not a kernel of the list; write one of {', '.join(names)}")
    wanted = [CI_KERNEL] if options.ci else options.only or names

    has_fault = False
    for kernel in (HOST, *KERNELS):
        if kernel.name not in wanted:
            continue
        result = run(kernel, options)
        if result is None:
            continue
        has_fault |= not result.complete or any(cell.outcome == "fault" for cell in result.cells)
        has_fault |= options.ci and not {cell.row for cell in result.cells if cell.outcome == "ok"}.issuperset(
            CI_ROWS
        )
        if not options.ci and result.release:
            keep_result(DATA, kernel.name, result, datetime.datetime.now(datetime.UTC).date().isoformat())
            write_page(PAGE, DATA)
    return 1 if has_fault else 0


if __name__ == "__main__":
    sys.exit(main())
