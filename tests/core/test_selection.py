"""The ways to choose source ports, and the circle of slots of each."""

from __future__ import annotations

from tailbite.core.ports import PortRange, PortSet
from tailbite.core.selection import Selection, circle_of


def test_each_way_has_a_label_for_the_command_line() -> None:
    assert [selection.label for selection in Selection] == ["strides", "by-two", "one-by-one", "random"]


def test_connect_chooses_the_parity_of_the_low_end_and_bind_the_other() -> None:
    ephemeral = PortRange(40000, 40099)
    dials = circle_of(ephemeral, PortSet())
    binds = circle_of(ephemeral, PortSet(), binds_first=True)
    assert dials is not None
    assert binds is not None
    assert {port % 2 for port in dials.chosen} == {0}
    assert {port % 2 for port in binds.chosen} == {1}


def test_a_range_that_is_taken_has_no_circle() -> None:
    ephemeral = PortRange(40000, 40001)
    assert circle_of(ephemeral, PortSet((ephemeral,))) is None
