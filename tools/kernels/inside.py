"""The job on a booted kernel: python inside.py SHARE. It reads SHARE/job.json and writes a line per cell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests"), str(ROOT / "src")]

from kernels.cells import CELLS  # noqa: E402 - the paths come first
from kernels.outcome import FaultError, NotRunError, Run  # noqa: E402
from kernels.records import Cell  # noqa: E402
from support.abilities import ABILITIES  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USED_UP = "the time for this kernel was used up"


def cells(job: dict[str, Any]) -> Iterator[Cell]:
    """Yield the abilities of the kernel, then the cells and tests of the job, until its time is used up."""
    run = Run(**job["run"], owns_machine=sys.argv[2:] == ["booted"])
    end = monotonic() + float(job["seconds"])
    for name, ability in ABILITIES.items():
        yield _ability_cell(name, ability)
    for row, cell in CELLS:
        if row in job["rows"] if job["rows"] is not None else row not in job.get("leave_out", ()):
            yield _cell(row, cell, run) if monotonic() < end else Cell(row, "not run", USED_UP)
    for path in job["tests"]:
        yield tests(path, end - monotonic())


def _ability_cell(name: str, ability: Callable[[], bool]) -> Cell:
    """Ask the kernel; an old one may refuse the very question, which is an answer too."""
    try:
        has = ability()
    except OSError as error:
        return Cell(f"ability {name}", "not run", f"no ({error.strerror or error})")
    return Cell(f"ability {name}", "ok" if has else "not run", "yes" if has else "no")


def _cell(row: str, cell: Callable[[Run], str], run: Run) -> Cell:
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
    return Cell(row, outcome, without_folders(" ".join(detail.split())), round(monotonic() - start, 1))


def without_folders(detail: str) -> str:
    """Return the detail without the folders of this machine, which mean nothing to the page's readers."""
    for folder in (Path(sys.executable).parent, ROOT):
        detail = detail.replace(f"{folder}/", "")
    return detail


def tests(path: str, seconds: float) -> Cell:
    """Run some of the project's own tests in one process; what the kernel lacks is skipped by its ability."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=short", "-rfE", path]
    # Without CI: there, a test that needs an ability which the kernel lacks fails.
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment["PYTEST_TIMEOUT"] = "600"
    start = monotonic()
    try:
        done = subprocess.run(
            command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=max(seconds, 1)
        )
    except subprocess.TimeoutExpired as error:
        print((error.stdout or b"").decode())
        return Cell(path, "not run", USED_UP, round(monotonic() - start, 1))
    print(done.stdout, done.stderr[-5000:], flush=True)
    lines = done.stdout.strip().splitlines() or [done.stderr[-200:]]
    summary = lines[-1].strip("= ").split(" in ")[0]
    return Cell(path, "ok" if done.returncode == 0 else "fault", summary, round(monotonic() - start, 1))


def shell(command: str, output: Path, seconds: float) -> None:
    """Run a command of the shell in the repository; the ``tailbite`` and ``python`` of this run are on its PATH."""
    folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{folder}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    with output.open("wb") as out:
        process = subprocess.Popen(["bash", "-c", command], cwd=ROOT, stdout=out, stderr=out, env=environment)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            process.kill()
            out.write(f"{error}\n".encode())


def main() -> None:
    share = Path(sys.argv[1])
    (share / "release").write_text(os.uname().release, encoding="ascii")
    job = json.loads((share / "job.json").read_text(encoding="utf-8"))
    if "shell" in job:
        shell(job["shell"], share / "output", float(job["seconds"]))
        (share / "complete").touch()
        return
    rows = [*(f"ability {name}" for name in ABILITIES), *(row for row, _ in CELLS)]
    (share / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    with (share / "result.jsonl").open("a", encoding="utf-8") as out:
        for cell in cells(job):
            out.write(json.dumps(cell.as_data()) + "\n")
            out.flush()
    (share / "complete").touch()


if __name__ == "__main__":
    main()
