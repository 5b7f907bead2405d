"""The floor for ``tailbite run``: a supervisor in C that does for one connect what must be done, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

__all__ = ["build_floor"]

SOURCE = Path(__file__).with_name("floor.c")


def build_floor(folder: Path) -> str | None:
    """Compile the supervisor into ``folder`` and return its path; None where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    target = str(folder / "floor")
    subprocess.run([compiler, "-O2", "-w", "-o", target, str(SOURCE)], check=True)
    return target
