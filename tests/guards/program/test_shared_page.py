"""The memory that helpers share: one process per slot, and nothing lost when a process is killed."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tailbite.guards.program import shared_page
from tailbite.guards.program.shared_page import MOST_WORKERS, Outcome, SharedPage

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def in_child(work: Callable[[], object]) -> tuple[int, int]:
    """Run ``work`` in a child that says when it is done and then waits to be killed; return its pid and a pipe."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
            os.write(write, b"+")
            signal.pause()
        finally:
            os._exit(0)
    os.close(write)
    return child, read


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@given(st.lists(st.tuples(st.integers(0, MOST_WORKERS - 1), st.sampled_from(Outcome)), max_size=50))
def test_counts_are_the_sum_over_all_slots(calls: list[tuple[int, Outcome]]) -> None:
    page = SharedPage()
    try:
        for number, outcome in calls:
            page.slots[number].counts[outcome] += 1
        page.record_takeover()
        found = page.counts_by_name()
        assert found.pop("takeovers") == 1
        assert found == {one.name.lower(): sum(outcome is one for _, outcome in calls) for one in Outcome}
        assert not page.is_guarded
        page.is_guarded = True
        assert page.is_guarded
    finally:
        os.close(page.descriptor)


def test_a_slot_belongs_to_one_process_until_that_ends_however() -> None:
    page = SharedPage()
    child, pipe = in_child(lambda: page.take_slot(2))
    assert os.read(pipe, 1) == b"+"
    assert page.used_slots() == [2]
    waiting, waited = in_child(lambda: page.take_slot(2))
    kill(child)
    assert os.read(waited, 1) == b"+", "the one that waited has it now"
    assert page.used_slots() == [2]
    kill(waiting)
    assert page.used_slots() == []
    for descriptor in (pipe, waited, page.descriptor):
        os.close(descriptor)


def test_one_process_has_the_lead_until_it_ends() -> None:
    page = SharedPage()
    child, pipe = in_child(lambda: (page.take_lead(), page.take_slot(0)))
    assert os.read(pipe, 1) == b"+"
    assert not page.take_lead()
    kill(child)
    assert page.take_lead()
    for descriptor in (pipe, page.descriptor):
        os.close(descriptor)


def test_a_process_that_is_killed_with_the_lead_before_it_started_a_worker_has_a_successor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long it took: a process that had given up by then would have left the program without helpers."""
    page = SharedPage()
    child, pipe = in_child(page.take_lead)
    assert os.read(pipe, 1) == b"+"
    pauses = 0

    def pause(_: float) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 1000:
            kill(child)

    monkeypatch.setattr(shared_page, "sleep", pause)
    assert page.take_lead()
    assert pauses == 1000
    for descriptor in (pipe, page.descriptor):
        os.close(descriptor)


def test_a_call_that_ends_its_worker_again_and_again_is_given_up() -> None:
    page = SharedPage()
    slot = page.slots[1]
    assert [slot.try_again(5) for _ in range(10)] == 8 * [True] + 2 * [False]
    assert slot.try_again(6)
    slot.call[:8] = (77).to_bytes(8, "little")
    assert slot.call_id == 77
    assert page.slots[0].call_id == page.slots[2].call_id == 0
    os.close(page.descriptor)
