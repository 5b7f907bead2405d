"""Comparison of the model with measured waits: mean, laps, and the whole distribution."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.core.laws import Laps
from tailbite.core.odds import odds
from tailbite.core.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailbite.core.odds import Odds
    from tailbite.lab.loop import ExperimentSettings, LoopTally

__all__ = ["Fit", "expected_odds", "fit_model", "kolmogorov_smirnov", "waits_of", "wilson_interval"]

_CRITICAL = 0.01
_TWO_SIDED_99 = 2.576


@dataclass(frozen=True, slots=True)
class Fit:
    """Agreement of the model of :mod:`tailbite.core.odds` with the observed self-connects.

    Attributes:
        waits: number of observed waits from one self-connect to the next.
        mean: mean of the waits, in attempts.
        model_mean: mean by the model.
        error: standard error of the mean.
        laps: laps around the range in all those waits; None if source ports are chosen independently.
        lap_chance: share of laps with a self-connect.
        lap_low: lower end of the 99 % confidence interval of that share (Wilson).
        lap_high: upper end of that interval.
        model_lap_chance: that share by the model; 2/9 if no port is taken.
        distance: Kolmogorov-Smirnov statistic of the waits.
        p_value: probability of this distance or a larger one if the model is true.
    """

    waits: int
    mean: float
    model_mean: float
    error: float
    laps: int | None
    lap_chance: float | None
    lap_low: float | None
    lap_high: float | None
    model_lap_chance: float | None
    distance: float
    p_value: float

    @property
    def deviation(self) -> float:
        """Deviation of the mean from the model's mean, as a share of the latter."""
        return self.mean / self.model_mean - 1

    @property
    def agrees(self) -> bool:
        """True if the data do not contradict the model at the 1 % level, by the laps or by the distribution.

        The mean is not compared with its standard error: few waits that happen to be alike have a small one, and the
        number of laps says the same without that fault.
        """
        laps = (
            self.lap_low is None
            or self.lap_high is None
            or self.model_lap_chance is None
            or self.lap_low <= self.model_lap_chance <= self.lap_high
        )
        return laps and self.p_value > _CRITICAL


def expected_odds(settings: ExperimentSettings) -> Odds:
    """Return the model of a loop in a namespace without reserved ports and without other programs."""
    selection = next(each for each in Selection if each.label == settings.system)
    return odds(settings.port, settings.ephemeral, selection=selection, binds_first=settings.binds_first)


def waits_of(tallies: Sequence[LoopTally]) -> list[int]:
    """Return the attempts between self-connects; the first of each worker is left out, its start is unknown."""
    return sorted(wait for tally in tallies for wait in tally.hits[1:])


def fit_model(settings: ExperimentSettings, tallies: Sequence[LoopTally]) -> Fit | None:
    """Compare the waits with the model; None with fewer than two waits, or if the model rules self-connects out."""
    model = expected_odds(settings)
    waits = waits_of(tallies)
    if model.law is None or len(waits) < 2:
        return None
    law = model.law
    laps = chance = low = high = model_chance = None
    if isinstance(law, Laps):
        # The k-th lap ends after k L attempts, give or take a few dozen: so the lap that hit is certain.
        laps = sum(max(1, round(wait / law.lap)) for wait in waits)
        chance, model_chance = len(waits) / laps, law.chance
        low, high = wilson_interval(len(waits), laps)
    distance, p_value = kolmogorov_smirnov(waits, lambda wait: 1 - law.survival_between(wait))
    return Fit(
        waits=len(waits),
        mean=statistics.mean(waits),
        model_mean=model.between,
        error=statistics.stdev(waits) / math.sqrt(len(waits)),
        laps=laps,
        lap_chance=chance,
        lap_low=low,
        lap_high=high,
        model_lap_chance=model_chance,
        distance=distance,
        p_value=p_value,
    )


def wilson_interval(hits: int, trials: int, z: float = _TWO_SIDED_99) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (E. B. Wilson, 1927)."""
    share = hits / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return (centre - half) / scale, (centre + half) / scale


def kolmogorov_smirnov(values: Sequence[int], distribution: Callable[[float], float]) -> tuple[float, float]:
    """Return the largest distance of the values from a distribution function, and the p-value of that distance.

    The values are whole numbers: P(T <= v) is compared with the share up to v, P(T <= v - 1) with the share below.
    The p-value is Kolmogorov's series with Stephens' correction (1970); for whole numbers it errs on the
    large side.
    """
    ordered = sorted(values)
    count = len(ordered)
    distance = 0.0
    for number, value in enumerate(ordered):
        if number == 0 or ordered[number - 1] != value:
            distance = max(distance, abs(distribution(value - 0.5) - number / count))
        if number == count - 1 or ordered[number + 1] != value:
            distance = max(distance, abs(distribution(value + 0.5) - (number + 1) / count))
    root = math.sqrt(count)
    scaled = (root + 0.12 + 0.11 / root) * distance
    series = sum((-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101))
    return distance, min(1.0, max(0.0, 2 * series)) if scaled > 0.2 else 1.0
