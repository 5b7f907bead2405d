"""Comparison of the model with the stored measurements, and its statistics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tailbite.core.ports import PortRange
from tailbite.lab.fit import fit_model, kolmogorov_smirnov, wilson_interval
from tailbite.lab.loop import ExperimentSettings, loop_from_record
from tailbite.lab.record import read_record

DATA = Path(__file__).parents[2] / "docs" / "data"


@pytest.mark.parametrize(
    ("name", "port", "ephemeral", "least"),
    [
        ("loop-default", 32774, PortRange(32768, 60999), 500),
        ("loop-story", 32246, PortRange(9000, 65500), 200),
    ],
)
def test_the_stored_measurements_agree_with_the_model(name: str, port: int, ephemeral: PortRange, least: int) -> None:
    """Mean within 5 %, 2/9 a lap within its confidence interval, Kolmogorov-Smirnov p above 0.01."""
    settings, tallies = loop_from_record(read_record(DATA / f"{name}.jsonl.gz", "loop"))
    assert (settings.port, settings.ephemeral) == (port, ephemeral)
    assert not settings.binds_first
    seen = fit_model(settings, tallies)
    assert seen is not None
    assert seen.waits >= least
    assert abs(seen.deviation) < 0.05
    assert seen.lap_low is not None
    assert seen.lap_high is not None
    assert seen.lap_low <= 2 / 9 <= seen.lap_high
    assert seen.model_lap_chance == pytest.approx(2 / 9)
    assert seen.p_value > 0.01
    assert seen.agrees
    assert sum(tally.odd for tally in tallies) == 0
    assert sum(tally.even for tally in tallies) == sum(tally.attempts for tally in tallies) > 1e7


def test_the_comparison_can_fail() -> None:
    """The same data against another range: the test above is not one that passes whatever the data."""
    settings, tallies = loop_from_record(read_record(DATA / "loop-default.jsonl.gz", "loop"))
    other = ExperimentSettings(settings.port, PortRange(32768, 62999), settings.hits, settings.attempts)
    seen = fit_model(other, tallies)
    assert seen is not None
    assert seen.p_value < 1e-6
    assert not seen.agrees


@pytest.mark.parametrize("laps", [2, 5])
def test_a_few_waits_that_are_alike_do_not_contradict_the_model(laps: int) -> None:
    """Their standard error is tiny, so a mean far from the model's lies hundreds of standard errors away."""
    settings, (tally, *_) = loop_from_record(read_record(DATA / "loop-default.jsonl.gz", "loop"))
    waits = [laps * 3137 + offset for offset in (-3, 0, 4)]
    seen = fit_model(settings, [replace(tally, hits=[1, *waits])])
    assert seen is not None
    assert abs(seen.mean - seen.model_mean) > 100 * seen.error
    assert seen.agrees


def test_measurements_that_follow_the_model_seldom_contradict_it() -> None:
    """Of 40 short measurements made by the model itself, at most 2 disagree; by the mean, 7 would."""
    settings, (tally, *_) = loop_from_record(read_record(DATA / "loop-default.jsonl.gz", "loop"))
    pick = np.random.default_rng(7)
    disagree = 0
    for _ in range(40):
        laps = pick.geometric(2 / 9, 3)
        waits = np.rint(pick.normal(laps * 3136.9, 28.5 * np.sqrt(laps))).astype(int)
        seen = fit_model(settings, [replace(tally, hits=[1, *waits.tolist()])])
        assert seen is not None
        disagree += not seen.agrees
    assert disagree <= 2


def test_wilson_holds_the_share_and_narrows_with_trials() -> None:
    low, high = wilson_interval(20, 90)
    narrow_low, narrow_high = wilson_interval(2000, 9000)
    assert low < narrow_low < 2 / 9 < narrow_high < high


def test_kolmogorov_smirnov_of_a_uniform_sample_and_of_a_shifted_one() -> None:
    values = list(range(1, 201))
    assert kolmogorov_smirnov(values, lambda x: min(1.0, max(0.0, x / 200)))[1] > 0.99
    assert kolmogorov_smirnov(values, lambda x: min(1.0, max(0.0, (x - 40) / 200)))[1] < 0.001
