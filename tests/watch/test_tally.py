"""Each self-connect is counted once, by whichever sources it is noticed, and nothing grows without bound."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.core.address import Endpoint
from tailbite.watch.records import Moment
from tailbite.watch.tally import MOST_PORTS, MOST_REMEMBERED, OTHER_PORTS, PortLabels, Tally

END = Endpoint("127.0.0.1", 5432)


def test_an_established_one_that_is_found_and_ends_is_one() -> None:
    tally = Tally()
    assert tally.notice(Moment.ESTABLISHED, 1, END, 0.0)
    assert not tally.notice(Moment.FOUND, 1, END, 1.0, cookie=(1, 0))
    assert not tally.notice(Moment.ENDED, 1, END, 2.0)
    assert not tally.notice(Moment.FOUND, 1, END, 3.0, is_open=False)  # TIME-WAIT
    assert tally.total == 1
    assert tally.by_label == {("5432", "host"): 1}


def test_two_that_end_at_one_endpoint_are_two() -> None:
    tally = Tally()
    assert tally.notice(Moment.ENDED, 1, END, 0.0)
    assert not tally.notice(Moment.FOUND, 1, END, 1.0, is_open=False)
    assert tally.notice(Moment.ENDED, 1, END, 2.0)
    assert tally.total == 2


def test_a_time_wait_may_be_found_before_its_end_is_reported() -> None:
    """The kernel reports ends from a work queue, so that an inspection can be faster."""
    tally = Tally()
    assert tally.notice(Moment.FOUND, 1, END, 0.0, cookie=(1, 0))
    assert not tally.notice(Moment.FOUND, 1, END, 1.0, is_open=False)
    assert not tally.notice(Moment.ENDED, 1, END, 1.1)
    assert not tally.notice(Moment.FOUND, 1, END, 2.0, is_open=False)
    assert tally.notice(Moment.ENDED, 1, END, 3.0)  # another connection, that no inspection met
    assert tally.total == 2


def test_an_open_one_after_an_end_is_another() -> None:
    tally = Tally()
    assert tally.notice(Moment.ENDED, 1, END, 0.0)
    assert tally.notice(Moment.FOUND, 1, END, 1.0, cookie=(1, 0))
    assert not tally.notice(Moment.ENDED, 1, END, 2.0)
    assert tally.total == 2


def test_another_cookie_is_another_connection() -> None:
    tally = Tally()
    assert tally.notice(Moment.FOUND, 1, END, 0.0, cookie=(1, 0))
    assert not tally.notice(Moment.FOUND, 1, END, 15.0, cookie=(1, 0))
    assert tally.notice(Moment.FOUND, 1, END, 30.0, cookie=(2, 0))
    assert not tally.notice(Moment.FOUND, 1, END, 45.0, is_open=False)


def test_a_later_one_is_new_once_the_time_wait_is_over() -> None:
    tally = Tally()
    assert tally.notice(Moment.FOUND, 1, END, 0.0, is_open=False)
    assert not tally.notice(Moment.FOUND, 1, END, 60.0, is_open=False)
    assert tally.notice(Moment.FOUND, 1, END, 151.0, is_open=False)


def test_namespaces_are_apart_and_an_unknown_one_stands_for_any() -> None:
    tally = Tally()
    assert tally.notice(Moment.FOUND, 1, END, 0.0, cookie=(1, 0))
    assert tally.notice(Moment.FOUND, 2, END, 0.0, where="container", cookie=(2, 0))
    other = Endpoint("127.0.0.1", 80)
    assert tally.notice(Moment.ESTABLISHED, 0, other, 1.0, where="unknown")
    assert not tally.notice(Moment.FOUND, 2, other, 2.0, where="container", is_open=False)
    assert tally.total == 3


@given(st.lists(st.integers(1, 65535), max_size=300))
def test_labels_are_bounded(ports: list[int]) -> None:
    labels = PortLabels()
    seen = {labels.label(port) for port in ports}
    assert len(seen - {OTHER_PORTS}) <= MOST_PORTS
    assert (OTHER_PORTS in seen) is (len(set(ports)) > MOST_PORTS)


@pytest.mark.parametrize("moment", [Moment.ESTABLISHED, Moment.ENDED])
def test_memory_stays_flat(moment: Moment) -> None:
    """bench/watch.py does the same with a million events, about 24 hours of a busy machine."""
    tally = Tally()

    def storm(first: int, last: int) -> None:
        for number in range(first, last):
            host = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
            tally.notice(moment, number & 63, Endpoint(host, number % 65535 + 1), number / 100)

    tracemalloc.start()
    storm(0, 20_000)
    before, _ = tracemalloc.get_traced_memory()
    storm(20_000, 60_000)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert tally.total == 60_000
    assert len(tally.by_label) <= MOST_PORTS + 1
    assert after < before * 1.1


def test_a_burst_beyond_the_memory_is_not_counted_twice() -> None:
    """The inspection after it finds the TIME-WAIT of every one, also of those that were forgotten."""
    tally = Tally()
    ends = [Endpoint("127.0.0.1", 10_000 + number) for number in range(MOST_REMEMBERED + 900)]
    assert all(tally.notice(Moment.ESTABLISHED, 1, end, 0.0) for end in ends)
    for end in ends:
        assert not tally.notice(Moment.FOUND, 1, end, 15.0, is_open=False)
    assert tally.total == len(ends)
    assert tally.notice(Moment.FOUND, 1, ends[0], 15.0, cookie=(1, 0))  # an open one is another
    assert tally.notice(Moment.FOUND, 1, Endpoint("::1", 1), 200.0, is_open=False)  # long after the burst
