"""Turns: the own namespace each time, named ones next, every other within a minute, none forgotten."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tailbite.watch.rounds import ROUND_S, Candidate, Rounds

OWN = Candidate(1, is_own=True)


@settings(max_examples=25)
@given(
    number=st.integers(1, 30),
    every=st.sampled_from([2.0, 5.0, 15.0]),
    named=st.lists(st.integers(2, 61), max_size=5),
)
def test_with_enough_budget_each_is_inspected_within_a_minute(number: int, every: float, named: list[int]) -> None:
    rounds = Rounds(every=every)
    places = [OWN, *(Candidate(inode) for inode in range(2, 2 + number))]
    last = {one.inode: 0.0 for one in places}
    for step in range(int(4 * ROUND_S / every)):
        now = step * every
        for inode in named:
            rounds.name(inode)
        due = rounds.plan(places, now)
        assert due[0] == OWN.inode
        assert set(named) & last.keys() <= set(due)
        for inode in due:
            rounds.inspected(inode, now)
            last[inode] = now
        assert all(now - when <= ROUND_S for when in last.values())


@settings(max_examples=25)
@given(number=st.integers(2, 20), most=st.integers(2, 5))
def test_with_too_little_budget_turns_go_round(number: int, most: int) -> None:
    rounds = Rounds(every=15.0)
    places = [OWN, *(Candidate(inode) for inode in range(2, 2 + number))]
    visits = dict.fromkeys(range(2, 2 + number), 0)
    for step in range(8 * number):
        now = step * 60.0
        for inode in rounds.plan(places, now)[:most]:
            rounds.inspected(inode, now)
            if inode != 1:
                visits[inode] += 1
    assert max(visits.values()) - min(visits.values()) <= 1


def test_empty_ones_are_skipped_named_ones_come_first_and_gone_ones_are_forgotten() -> None:
    rounds = Rounds(every=15.0)
    places = [Candidate(5), Candidate(4, is_empty=True), Candidate(3), OWN]
    rounds.name(3)
    rounds.name(4)
    assert rounds.plan(places, 0.0) == [1, 3, 5]
    for inode in (1, 3, 5):
        rounds.inspected(inode, 0.0)
    assert rounds.plan(places, 15.0) == [1]
    rounds.name(5)
    assert rounds.plan([OWN, Candidate(5)], 30.0) == [1, 5]  # 3 and 4 are gone, with what was known of them
    assert rounds.plan([OWN, Candidate(3)], 31.0) == [1, 3]
