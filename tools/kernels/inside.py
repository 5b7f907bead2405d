"""The job on a booted kernel: python inside.py SHARE. It reads SHARE/job.json and writes a line per cell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests"), str(ROOT / "src")]

from kernels.cells import CELLS, FaultError, NotRunError, Run  # noqa: E402 - the paths come first
from kernels.records import Cell  # noqa: E402
from support.abilities import ABILITIES  # noqa: E402


def cells(job: dict[str, object], share: Path) -> None:
    """Run the cells that the job names, all by default, until its time is used up; write each as it ends."""
    run = Run(int(str(job.get("connects", 500))))
    end = monotonic() + float(str(job["seconds"]))
    wanted = job.get("rows")
    with (share / "result.jsonl").open("a", encoding="utf-8") as out:

        def write(cell: Cell) -> None:
            out.write(json.dumps(cell.as_data()) + "\n")
            out.flush()

        for name, ability in ABILITIES.items():
            write(Cell(f"ability {name}", "ok" if ability() else "not run", "yes" if ability() else "no"))
        for row, cell in CELLS:
            if isinstance(wanted, list) and row not in wanted:
                continue
            if monotonic() > end:
                write(Cell(row, "not run", "the time for this kernel was used up"))
                continue
            start = monotonic()
            try:
                outcome, detail = "ok", cell(run)
            except NotRunError as reason:
                outcome, detail = "not run", str(reason)
            except (FaultError, subprocess.TimeoutExpired) as fault:
                outcome, detail = "fault", str(fault)
            except Exception as error:  # the other cells are still worth running
                traceback.print_exc()
                outcome, detail = "fault", f"{type(error).__name__}: {error}"
            write(Cell(row, outcome, " ".join(detail.split()), round(monotonic() - start, 1)))
        if job.get("tests"):
            write(tests([str(path) for path in job["tests"]], end - monotonic()))  # type: ignore[attr-defined]


def tests(paths: list[str], seconds: float) -> Cell:
    """Run the project's own tests in one process, for a time; what the kernel lacks is skipped by its ability."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=short", *paths]
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    start = monotonic()
    try:
        done = subprocess.run(
            command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=max(seconds, 60)
        )
    except subprocess.TimeoutExpired as error:
        print((error.stdout or b"").decode()[-5000:])
        return Cell("tests", "not run", "the time for this kernel was used up", round(monotonic() - start, 1))
    lines = done.stdout.strip().splitlines()
    print(done.stdout, done.stderr[-5000:])
    outcome = "ok" if done.returncode == 0 else "fault"
    return Cell(
        "tests", outcome, lines[-1].strip("= ") if lines else done.stderr[-200:], round(monotonic() - start, 1)
    )


def main() -> None:
    share = Path(sys.argv[1])
    (share / "release").write_text(os.uname().release, encoding="ascii")
    job = json.loads((share / "job.json").read_text(encoding="utf-8"))
    cells(job, share)
    (share / "complete").touch()


if __name__ == "__main__":
    main()
