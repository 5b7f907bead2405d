"""``tailbite lab odds`` as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.lab import run_lab

if TYPE_CHECKING:
    from pathlib import Path


def test_odds_says_that_the_storys_port_never_comes_and_its_neighbour_does() -> None:
    never = run_lab("odds", "--port", "32775", "--range", "32768-60999")
    assert never.returncode == 0
    assert "cannot happen" in never.stderr
    soon = run_lab("odds", "--port", "32774", "--range", "32768-60999", "--every", "100ms")
    assert "21 minutes on average" in soon.stderr
    assert "14,116" in soon.stdout
    assert all(len(line) <= 80 for line in soon.stdout.splitlines())


def test_odds_of_a_fleet_as_json() -> None:
    """Calculated and simulated agree."""
    fleet = ["--hosts", "1e5", "--outage", "10m", "--every", "100ms"]
    arguments = ["odds", "--port", "32774", "--range", "32768-60999", *fleet, "--json"]
    answer = json.loads(run_lab(*arguments).stdout)
    assert answer["schema"] == "tailbite.lab.odds/1"
    assert answer["possible"] is True
    assert answer["expected_hosts"] == pytest.approx(1e5 * answer["probability"], rel=1e-3)
    assert answer["simulated_hosts"] == pytest.approx(answer["expected_hosts"], rel=0.02)


def test_odds_without_numpy_and_matplotlib_answers_but_does_not_draw(tmp_path: Path) -> None:
    hide = "import sys, importlib.util as u; f = u.find_spec; "
    hide += "u.find_spec = lambda n, *a: None if n in ('numpy', 'matplotlib') else f(n, *a); "
    hide += "sys.modules['numpy'] = sys.modules['matplotlib'] = None; from tailbite.cli import main; main()"
    plain = [sys.executable, "-c", hide, "lab", "odds", "--port", "32774", "--range", "32768-60999"]
    done = subprocess.run([*plain, "--outage", "1h", "--hosts", "100"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "of 100 hosts" in done.stdout
    drawn = subprocess.run([*plain, "--figure", str(tmp_path / "x")], capture_output=True, text=True, timeout=60)
    assert drawn.returncode == 4
    assert "pip install 'tailbite[lab]'" in drawn.stderr
    assert "Traceback" not in drawn.stderr
