"""Backoff and policies: bounded, jittered, and refused when they could not work."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.core.backoff import Backoff, Policy

if TYPE_CHECKING:
    from collections.abc import Callable


@given(
    initial=st.floats(0, 10),
    more=st.floats(0, 100),
    factor=st.floats(1, 10),
    draws=st.lists(st.floats(0, 1), min_size=1),
)
def test_every_delay_lies_between_zero_and_a_ceiling_that_grows_to_the_maximum(
    initial: float, more: float, factor: float, draws: list[float]
) -> None:
    source = iter(draws)
    backoff = Backoff(initial, initial + more, factor, draw=lambda: next(source))
    ceilings = Backoff(initial, initial + more, factor, draw=lambda: 1.0)()
    for delay, ceiling, draw in zip(backoff(), ceilings, draws, strict=False):
        assert 0 <= delay <= ceiling <= initial + more
        assert delay == draw * ceiling
        if draw is draws[-1]:
            break


def test_the_default_starts_within_a_tenth_of_a_second_and_ends_at_half_a_minute() -> None:
    ceilings = list(itertools.islice(Backoff(draw=lambda: 1.0)(), 12))
    assert ceilings == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30])


def test_the_ceiling_never_overflows() -> None:
    assert next(itertools.islice(Backoff(1, 30, 1e300, draw=lambda: 1.0)(), 5000, None)) == 30


def test_each_outage_has_delays_of_its_own() -> None:
    backoff = Backoff(1, 8, 2, draw=lambda: 1.0)
    assert list(itertools.islice(backoff(), 3)) == list(itertools.islice(backoff(), 3)) == [1, 2, 4]


@pytest.mark.parametrize(
    ("initial", "maximum", "factor"),
    [(-1, 1, 2), (2, 1, 2), (0, math.inf, 2), (math.nan, 1, 2), (1, 2, 0.5), (1, 2, math.nan), (1, 2, math.inf)],
)
def test_a_backoff_that_cannot_be_is_refused(initial: float, maximum: float, factor: float) -> None:
    with pytest.raises(ValueError, match="backoff needs"):
        Backoff(initial, maximum, factor)


@pytest.mark.parametrize("limit", [{"max_attempts": 0}, {"deadline": 0.0}, {"deadline": math.nan}])
def test_a_policy_without_an_attempt_is_refused(limit: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Policy(**limit)  # type: ignore[arg-type]


@pytest.mark.parametrize("limits", [{}, {"max_attempts": 1}, {"deadline": 0.1}, {"max_attempts": 3, "deadline": 2.0}])
def test_a_policy_with_an_attempt_is_taken(limits: dict[str, float]) -> None:
    policy = Policy(**limits)  # type: ignore[arg-type]
    assert (policy.max_attempts, policy.deadline) == (limits.get("max_attempts"), limits.get("deadline"))


@pytest.mark.parametrize(
    ("make", "arguments", "says"),
    [
        (Backoff, {"initial": "a"}, "initial must be a number"),
        (Backoff, {"maximum": None}, "maximum must be a number"),
        (Backoff, {"factor": "2"}, "factor must be a number"),
        (Backoff, {"factor": True}, "factor must be a number"),
        (Backoff, {"draw": 0.5}, "draw must be a function"),
        (Policy, {"backoff": 5}, "backoff must be"),
        (Policy, {"backoff": Backoff}, "backoff must be"),
        (Policy, {"max_attempts": 2.5}, "max_attempts must be a whole number"),
        (Policy, {"max_attempts": True}, "max_attempts must be a whole number"),
        (Policy, {"deadline": "1m"}, "deadline must be a number"),
    ],
)
def test_a_wrong_type_is_a_type_error(make: Callable[..., object], arguments: dict[str, object], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        make(**arguments)


@pytest.mark.parametrize("given", [0.1, None])
def test_a_backoff_that_returns_no_iterator_is_a_type_error(given: object) -> None:
    with pytest.raises(TypeError, match="must return an iterator of seconds"):
        Policy(backoff=lambda: given).delays()  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("delay", "error"),
    [("x", TypeError), (None, TypeError), (-1, ValueError), (math.nan, ValueError), (math.inf, ValueError)],
)
def test_a_delay_that_is_not_a_number_of_seconds_is_an_error(delay: object, error: type[Exception]) -> None:
    delays = Policy(backoff=lambda: iter([0.5, delay])).delays()  # type: ignore[list-item]
    assert next(delays) == 0.5
    with pytest.raises(error, match="as a delay"):
        next(delays)
