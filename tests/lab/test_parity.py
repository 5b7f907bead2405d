"""Ports that the kernel chooses at all: model and kernel in sixteen cells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.limits import without
from tailbite.lab.parity import ParityCell, measure_cell, parity_cells

DATA = Path(__file__).parents[2] / "docs" / "data"


@pytest.mark.usefixtures("network")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the emulated limits know x86_64's system calls")
def test_a_system_without_ipv6_gets_the_cells_of_ipv4() -> None:
    command = [*without("AF_INET6"), sys.executable, "-m", "tailbite", "lab", "parity", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert [cell["ipv6"] for cell in json.loads(done.stdout)["cells"]] == [False] * 8
    assert "this system has no IPv6" in done.stderr


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    "cell", tuple(parity_cells()), ids=lambda c: f"{c.ephemeral}-{c.port}-{c.binds_first:d}-{c.ipv6:d}"
)
def test_model_and_kernel_agree_which_ports_are_chosen(cell: ParityCell) -> None:
    """Port parity, parity of the low end, connect() or bind() first, IPv4 and IPv6."""
    seen = measure_cell(cell)
    assert seen.agrees, seen
    assert seen.hits > 0 if cell.model else seen.hits == 0
