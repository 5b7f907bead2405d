"""Durations as people write and read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.core.duration import parse_duration, spell_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("100ms", 0.1), ("1s", 1), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("3d", 259200), ("0.5", 0.5), ("5", 5)],
)
def test_people_write_durations_in_these_ways(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "1x", "-1s", "s", "1 s !", "10,5s"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write it as 100ms"):
        parse_duration(text)


def test_a_part_without_a_unit_is_ambiguous() -> None:
    with pytest.raises(ValueError, match="needs a unit"):
        parse_duration("1h30")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (math.inf, "never"),
        (0.00013, "130 us"),
        (0.13, "130 ms"),
        (1, "1 s"),
        (59.9, "1 minute"),
        (12548, "3.5 hours"),
        (86400 * 400, "1.1 years"),
        (86400 * 365.25 * 12345, "12 000 years"),
    ],
)
def test_two_digits_are_enough_for_people(seconds: float, text: str) -> None:
    assert spell_duration(seconds) == text


@given(st.floats(1e-6, 1e12))
def test_what_is_shown_is_within_five_percent(seconds: float) -> None:
    number, unit = spell_duration(seconds).rsplit(" ", 1)
    sizes = {"us": 1e-6, "ms": 1e-3, "s": 1, "minute": 60, "hour": 3600, "day": 86400, "year": 365.25 * 86400}
    assert float(number.replace(" ", "")) * sizes[unit if unit in sizes else unit.removesuffix("s")] == pytest.approx(
        seconds, rel=0.05
    )
