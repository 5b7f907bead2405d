"""Netstat, ss, lsof, psutil and tailbite show what the documentation says they do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

TOOL = Path(__file__).parents[3] / "tools/seen.py"


@pytest.mark.needs("BOUND_SOCKETS_LISTED")
@pytest.mark.peers
def test_the_table_of_what_each_program_sees_is_true(peer: Callable[[str], str]) -> None:
    for program in ("netstat", "ss", "lsof"):
        peer(program)
    done = subprocess.run([sys.executable, TOOL, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run python tools/seen.py: {done.stdout}{done.stderr}"
