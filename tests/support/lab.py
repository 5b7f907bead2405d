"""Runs of ``tailbite lab``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["DATA", "run_lab"]

DATA = Path(__file__).parents[2] / "docs" / "data"


def run_lab(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``tailbite lab`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tailbite", "lab", *arguments], capture_output=True, text=True, timeout=110, **options
    )
