"""Simulated hosts against the closed form."""

from __future__ import annotations

import math

import pytest

from tailbite.core.odds import odds
from tailbite.core.ports import PortRange, PortSet
from tailbite.core.selection import circle_of
from tailbite.lab.simulation import simulate_hosts


@pytest.mark.parametrize(
    ("ephemeral", "reserved", "port", "binds_first"),
    [
        (PortRange(32768, 60999), "", 32774, False),
        (PortRange(32768, 60999), "", 32775, True),
        (PortRange(32768, 60999), "32700-32799,40000-40100", 32800, False),
        (PortRange(40000, 40063), "40010", 40012, False),
    ],
)
def test_simulated_hosts_are_hit_as_the_closed_form_says(
    ephemeral: PortRange, reserved: str, port: int, binds_first: bool
) -> None:
    taken = PortSet.parse(reserved)
    circle = circle_of(ephemeral, taken, binds_first=binds_first)
    assert circle is not None
    for attempts in (10, 500, 4000):
        fleet = simulate_hosts(circle, port, hosts=40_000, attempts=attempts)
        share = odds(port, ephemeral, taken, binds_first=binds_first).probability(attempts)
        assert abs(fleet.share - share) <= 5 * math.sqrt(share * (1 - share) / fleet.hosts) + 0.003


def test_a_port_that_is_never_chosen_hits_nobody() -> None:
    circle = circle_of(PortRange(32768, 60999), PortSet())
    assert circle is not None
    assert simulate_hosts(circle, 32775, hosts=1000, attempts=5000).hit == 0


def test_the_same_seed_gives_the_same_result() -> None:
    circle = circle_of(PortRange(40000, 40999), PortSet())
    assert circle is not None
    once, again, other = (simulate_hosts(circle, 40100, hosts=5000, attempts=100, seed=seed) for seed in (3, 3, 4))
    assert once == again != other
