"""Guarded clients without port ranges get what plain ones get, and disturb as little.

The kernel's option is switched off here; ``make kernels`` runs the same on kernels without it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench/fallback.py"
NEVER_CHOSEN = "32775"
"""An odd port while the range begins at an even one. The kernel chooses an even one once in 14 000 connects, and no
server can start until that connect is reset: a moment, or many starts if the client's thread waits for a CPU."""


@pytest.mark.parametrize("way", ["library", "guard"])
def test_no_source_port_is_lost_and_no_server_is_kept_from_starting(way: str) -> None:
    command = (sys.executable, str(BENCH), "--json", "--tries", "100", "--port", NEVER_CHOSEN, "plain", way)
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=True)
    plain, guarded = map(json.loads, done.stdout.splitlines())
    assert plain["trap"]["self-connects"] > 300, "the control did not self-connect"
    assert (guarded["trap"]["self-connects"], guarded["trap"]["sockets left"]) == (0, 0)
    assert plain["capacity"]["connected"] == plain["capacity"]["wanted"] == guarded["capacity"]["connected"]
    assert guarded["capacity"]["others connect"]
    assert set(plain["starts"].values()) == {100}
    assert guarded["starts"] == plain["starts"]
