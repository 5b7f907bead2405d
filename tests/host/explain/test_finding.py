"""Facts of a finding read as English."""

from __future__ import annotations

import pytest

from tailbite.host.explain.finding import Fact


@pytest.mark.parametrize(
    ("unit", "one"),
    [
        ("ports", "port"),
        ("sockets", "socket"),
        ("connections", "connection"),
        ("bytes", "byte"),
        ("processes", "process"),
        ("s", "s"),
    ],
)
def test_one_of_a_kind_is_told_in_the_singular(unit: str, one: str) -> None:
    assert [Fact("seen", number, unit).words for number in (0, 1, 2)] == [f"0 {unit}", f"1 {one}", f"2 {unit}"]
