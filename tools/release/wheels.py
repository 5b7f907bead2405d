"""The two wheels and the source distribution, by the build backend that pyproject.toml names."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from release.project import EPOCH, ROOT, run

if TYPE_CHECKING:
    from pathlib import Path


def build_wheels(folder: Path) -> list[Path]:
    """Build ``tailbite-core`` and ``tailbite`` into a folder, and return the paths of the wheels."""
    for compiled in (ROOT / "src").rglob("*.pyc"):
        if compiled.parent.name != "__pycache__":
            compiled.unlink()  # a guarded Python 2 leaves it beside the module, where the build would include it
    environment = {**os.environ, "TAILBITE_RELEASE": "1", "SOURCE_DATE_EPOCH": str(EPOCH)}
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    run(*build, "--wheel", ROOT / "deploy/core", env=environment)
    run(*build, "--wheel", ROOT, env=environment)
    return sorted(folder.glob("tailbite*.whl"))


def build_source(folder: Path) -> None:
    """Build the source distribution into a folder."""
    environment = {**os.environ, "TAILBITE_RELEASE": "1", "SOURCE_DATE_EPOCH": str(EPOCH)}
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", folder, ROOT, env=environment)
