"""Ports that the kernel chooses at all: model and kernel in sixteen cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailbite.lab.parity import ParityCell, measure_cell, parity_cells

DATA = Path(__file__).parents[2] / "docs" / "data"


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    "cell", tuple(parity_cells()), ids=lambda c: f"{c.ephemeral}-{c.port}-{c.binds_first:d}-{c.ipv6:d}"
)
def test_model_and_kernel_agree_which_ports_are_chosen(cell: ParityCell) -> None:
    """Port parity, parity of the low end, connect() or bind() first, IPv4 and IPv6."""
    seen = measure_cell(cell)
    assert seen.agrees, seen
    assert seen.hits > 0 if cell.model else seen.hits == 0
