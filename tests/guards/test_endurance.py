"""Thousands of guarded connects in the trap, each way; ``bench/endurance.py`` makes a million of each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench/endurance.py"


@pytest.mark.parametrize("way", ["create_connection", "open_connection", "guard", "run"])
def test_no_self_connect_and_flat_memory(way: str) -> None:
    command = (sys.executable, str(BENCH), way, "--connects", "8000", "--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert figures["controls"] == [True, True], "the control did not self-connect"
    assert figures["self-connects"] == 0
    assert figures["growth KiB"] <= 512
