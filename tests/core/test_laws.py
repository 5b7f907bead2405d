"""The three laws at their edges: before the first attempt, without spread, and where a walk can never land."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.core.laws import Exact, Independent, Laps, law_of
from tailbite.core.selection import Circle


@given(chance=st.floats(0.001, 1))
def test_an_independent_law_has_the_mean_of_the_geometric_distribution(chance: float) -> None:
    law = Independent(chance)
    assert law.mean == law.between == 1 / chance
    assert law.survival(0) == law.survival_between(0) == 1
    if chance < 1:
        total = sum(law.survival_between(attempts) for attempts in range(math.ceil(40 / chance)))
        assert total == pytest.approx(law.mean, rel=1e-6)


def test_a_certain_chance_hits_at_the_first_attempt() -> None:
    assert [Independent(1.0).survival(attempts) for attempts in (0, 0.5, 1, 2)] == [1, 1, 0, 0]


def test_laps_without_spread_hit_at_whole_laps() -> None:
    law = Laps(lap=10, spread=0, chance=1)
    assert law.survival(0) == 1
    assert law.survival(5) == pytest.approx(0.5)
    assert law.survival(10) == pytest.approx(0)
    assert [law.survival_between(attempts) for attempts in (9, 10, 11)] == [1, 0, 0]


@given(lap=st.floats(50, 5000), spread=st.floats(0.1, 20), chance=st.floats(0.05, 1), attempts=st.floats(0, 20000))
def test_survival_of_laps_is_a_probability_and_never_grows(
    lap: float, spread: float, chance: float, attempts: float
) -> None:
    law = Laps(lap, spread, chance)
    assert 0 <= law.survival(attempts + lap) <= law.survival(attempts) + 1e-9 <= 1 + 1e-9


def test_an_exact_law_is_certain_before_the_first_attempt_and_over_after_the_last() -> None:
    law = Exact(first=(1.0, 0.5), again=(1.0, 0.25))
    assert [law.survival(attempts) for attempts in (-1, 0, 1, 2)] == [1, 1, 0.5, 0]
    assert law.survival_between(-1) == 1
    assert (law.mean, law.between) == (1.5, 1.25)


def test_a_walk_of_fixed_strides_may_never_land() -> None:
    """Two slots that lead only to each other, beside one that leads to the port."""
    circle = Circle(chosen=(1, 2, 3, 4), skipped=(1, 1, 1, 1), strides=1)
    law = law_of(circle, 1)
    assert isinstance(law, Exact)
    assert law.never == 0.5
    assert math.isinf(law.mean)
    assert law.survival(1000) == 0.5


def test_a_port_that_no_search_ends_at_has_no_law() -> None:
    assert law_of(Circle(chosen=(1, 2), skipped=(0, 0), strides=8), 3) is None


@given(slots=st.integers(400, 900), block=st.integers(1, 380))
def test_a_lap_over_a_block_of_taken_ports_meets_the_port_behind_it(slots: int, block: int) -> None:
    chosen = tuple(max(slot, block) for slot in range(slots))
    skipped = tuple(block - slot if slot < block else 0 for slot in range(slots))
    law = law_of(Circle(chosen, skipped, 8), block)
    assert law is not None
    assert 0 < law.between < math.inf
    assert law.survival(0) == 1
