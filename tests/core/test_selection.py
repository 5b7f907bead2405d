"""The ways to choose source ports, and the circle of slots of each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailbite.core.ports import PortRange, PortSet
from tailbite.core.selection import Selection, circle_of


def test_each_way_has_a_label_for_the_command_line() -> None:
    assert [selection.label for selection in Selection] == ["strides", "by-two", "one-by-one", "random"]


def test_before_linux_5_12_all_destinations_share_one_counter() -> None:
    assert [selection.label for selection in Selection if selection.is_shared] == ["by-two", "one-by-one"]


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


@given(
    size=st.integers(2, 400),
    blocks=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 60)), max_size=4),
    binds_first=st.booleans(),
)
def test_searches_that_scatter_end_at_each_free_port_of_a_parity_alike(
    size: int, blocks: list[tuple[int, int]], binds_first: bool
) -> None:
    """With ip_local_port_step_width no port behind a taken block is chosen more often than another one."""
    ephemeral = PortRange(40000, 40000 + size - 1)
    taken = PortSet.of(PortRange(40000 + low, 40000 + low + more) for low, more in blocks)
    scattered = circle_of(ephemeral, taken, binds_first=binds_first, scatters=True)
    usual = circle_of(ephemeral, taken, binds_first=binds_first)
    if binds_first or not taken:
        assert scattered == usual
        return
    if usual is None:
        return  # a search from some slot ends without a port, for instance where only the low end of 5 ports is free
    assert scattered is not None
    assert len(set(scattered.chosen)) == len(scattered) or len(scattered) == len(usual)
    assert set(scattered.chosen) <= set(usual.chosen)
    assert not taken & PortSet.of(scattered.chosen)
