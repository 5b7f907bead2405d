"""Thousands of guarded connects in the trap, each way; ``bench/endurance.py`` makes a million of each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import CI

FOLDER = Path(__file__).parents[2] / "bench"


@pytest.mark.parametrize("way", ["create_connection", "open_connection", "guard", "run"])
def test_no_self_connect_and_flat_memory(way: str) -> None:
    command = (sys.executable, str(FOLDER / "endurance.py"), way, "--connects", "8000", "--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert figures["controls"] == [True, True], "the control did not self-connect"
    assert figures["self-connects"] == 0
    assert figures["growth KiB"] <= 512


@pytest.mark.parametrize("ports", [2, 500])
def test_a_client_that_hardly_gets_a_cpu_never_reaches_itself(ports: int) -> None:
    """A port is held then; ``bench/held.py`` makes ten thousand connects of each, also at the lowest priority."""
    command = (
        sys.executable,
        str(FOLDER / "held.py"),
        "quota",
        "--ports",
        str(ports),
        "--connects",
        "80",
        "--storm-nice",
        "10",
        "--json",
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    if done.returncode == 4:
        (pytest.fail if CI else pytest.skip)(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert figures["controls"] == [True, True], "the control did not self-connect"
    assert (figures["self-connects"], figures["refused"]) == (0, 80)
    assert figures["held"] > 0
