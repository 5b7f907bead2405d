"""Port sets behave as sets of integers do, and speak the kernel's format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.core.ports import PortRange, PortSet, shortened

ports = st.integers(0, 65535)
few = st.sets(ports, max_size=30)
ranges = st.tuples(ports, ports).map(lambda pair: PortRange(min(pair), max(pair)))


@given(members=few)
def test_a_port_set_holds_what_it_is_made_of(members: set[int]) -> None:
    made = PortSet.of(members)
    assert set(made) == members
    assert len(made) == len(members)
    assert list(made) == sorted(members)


@given(members=few)
def test_the_kernels_format_is_read_and_written(members: set[int]) -> None:
    made = PortSet.of(members)
    assert PortSet.parse(str(made)) == made
    assert PortSet.parse(f" {made}\n") == made


@given(one=st.lists(ranges, max_size=4), other=st.lists(ranges, max_size=4), probe=st.lists(ports, max_size=20))
def test_union_difference_and_intersection_are_those_of_sets(
    one: list[PortRange], other: list[PortRange], probe: list[int]
) -> None:
    left, right = PortSet.of(one), PortSet.of(other)
    edges = [p for r in (*one, *other) for p in (r.low - 1, r.low, r.high, r.high + 1) if 0 <= p <= 65535]
    for port in probe + edges:
        assert (port in (left | right)) == (port in left or port in right)
        assert (port in (left - right)) == (port in left and port not in right)
        assert (port in (left & right)) == (port in left and port in right)


@given(whole=ranges, port=ports)
def test_around_takes_out_one_port_and_nothing_else(whole: PortRange, port: int) -> None:
    sub_ranges = whole.around(port)
    assert sum(map(len, sub_ranges)) == len(whole) - (port in whole)
    assert all(port not in sub_range for sub_range in sub_ranges)
    assert all(sub_range.low in whole and sub_range.high in whole for sub_range in sub_ranges)


@pytest.mark.parametrize("text", ["9000-65500", "9000\t65500\n", " 9000 65500 "])
def test_a_range_is_read_as_people_and_as_the_kernel_write_it(text: str) -> None:
    assert PortRange.parse(text) == PortRange(9000, 65500)


@pytest.mark.parametrize("text", ["", "9000", "9000-", "a-b", "9000-65536", "65500-9000", "1-2-3", "-1-5", "٣-٤"])
def test_what_is_no_range_is_a_value_error_that_says_so(text: str) -> None:
    with pytest.raises(ValueError, match="not a valid port range"):
        PortRange.parse(text)


@pytest.mark.parametrize("text", ["1-", "a", "1,b", "70000"])
def test_what_is_no_port_list_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="not a valid port range"):
        PortSet.parse(text)


def test_a_long_list_is_cut_between_two_ports() -> None:
    assert shortened("1,2,3") == "1,2,3"
    text = str(PortSet.of(range(10001, 20000, 2)))
    cut = shortened(text)
    assert len(cut) <= 205
    assert text.startswith(cut.removesuffix(", ...") + ",")
