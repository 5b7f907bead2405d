"""The distribution of the number of attempts until a walk around a circle of slots lands on one port.

Three laws, by the way in which the start of a search is chosen:

- :class:`Independent`: each choice is independent of the others (``bind`` first, random selection): geometric.
- :class:`Laps`: the walk goes round and round. A lap takes L attempts, hardly scattered (strides of mean 4.5 slots,
  so the renewal theorem gives L = slots / 4.5), and passes over the port or lands on it: probability h a lap,
  1 / 4.5 = 2/9 when nothing is taken. From hit to hit that is L times a geometric number of laps, on average L / h,
  which is just the number of slots (Kac: the mean return time is the inverse of the stationary probability).
- :class:`Exact`: the same walk on few slots, where a lap is a handful of strides and nothing has settled: the chain
  is computed attempt by attempt.

The place of a walk on the circle is not known when a client begins to dial, so the start is uniform, and the wait for
the first hit is the residual of the time from hit to hit (renewal theory: P(T > t) = E[max(R - t, 0)] / E[R]). A
search that starts inside a block of taken ports ends behind the block. Settled walks rarely start there, so this is
added (``head_start``).
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.core.selection import Circle

__all__ = ["Exact", "Independent", "Laps", "Law", "law_of"]

_FEW = 3000
"""States times candidates up to which the chain is computed exactly: about 0.1 s."""
_GONE = 1e-9
"""A probability that is neglected."""


class Law(Protocol):
    """Distribution of the number of attempts until a hit."""

    @property
    def mean(self) -> float:
        """Average number of attempts until the first hit, from an unknown start."""

    @property
    def between(self) -> float:
        """Average number of attempts from one hit to the next."""

    def survival(self, attempts: float) -> float:
        """Return the probability that this many attempts do not hit."""

    def survival_between(self, attempts: float) -> float:
        """Return the probability that from one hit to the next it takes more than this many attempts."""


@dataclass(frozen=True, slots=True)
class Independent:
    """Each attempt hits with the same probability.

    Attributes:
        chance: that probability.
    """

    chance: float

    @property
    def mean(self) -> float:
        """See :class:`Law`."""
        return 1 / self.chance

    @property
    def between(self) -> float:
        """See :class:`Law`."""
        return 1 / self.chance

    def survival(self, attempts: float) -> float:
        """See :class:`Law`."""
        if self.chance == 1:
            return 1.0 if attempts < 1 else 0.0
        return math.exp(math.floor(attempts) * math.log1p(-self.chance)) if attempts > 0 else 1.0

    def survival_between(self, attempts: float) -> float:
        """See :class:`Law`."""
        return self.survival(attempts)


@dataclass(frozen=True, slots=True)
class Laps:
    """A walk that goes round in laps, each of which hits or misses.

    Attributes:
        lap: average number of attempts in one lap.
        spread: their standard deviation.
        chance: the probability that a lap hits.
        head_start: by how much the first attempt from an unknown start is more likely to hit than any other attempt.
    """

    lap: float
    spread: float
    chance: float
    head_start: float = 0.0

    @property
    def mean(self) -> float:
        """See :class:`Law`."""
        square = self.lap**2 * (2 - self.chance) / self.chance**2 + self.spread**2 / self.chance
        settled = (square / self.between + 1) / 2
        return 1 + (1 - self.head_start) * (settled - 1)

    @property
    def between(self) -> float:
        """See :class:`Law`."""
        return self.lap / self.chance

    def _laps(self) -> Iterator[tuple[float, float, float]]:
        """Yield (probability that it takes k laps, their attempts, the standard deviation)."""
        left, number = 1.0, 1
        while left > _GONE and number < 100_000:
            yield left * self.chance, number * self.lap, math.sqrt(number) * self.spread
            left *= 1 - self.chance
            number += 1

    def survival(self, attempts: float) -> float:
        """See :class:`Law`."""
        at = math.floor(attempts)
        if at < 1:
            return 1.0
        settled = sum(share * _excess(mean - at, spread) for share, mean, spread in self._laps()) / self.between
        return min(1.0, (1 - self.head_start) * settled)

    def survival_between(self, attempts: float) -> float:
        """See :class:`Law`."""
        return sum(share * _above(mean - attempts, spread) for share, mean, spread in self._laps())


def _above(distance: float, spread: float) -> float:
    """Return P(X > 0) for X normal with this mean."""
    if spread == 0:
        return 1.0 if distance > 0 else 0.0
    return math.erfc(-distance / spread / math.sqrt(2)) / 2


def _excess(distance: float, spread: float) -> float:
    """Return E[max(X, 0)] for X normal with this mean."""
    if spread == 0:
        return max(distance, 0.0)
    density = math.exp(-((distance / spread) ** 2) / 2) / math.sqrt(2 * math.pi)
    return distance * _above(distance, spread) + spread * density


@dataclass(frozen=True, slots=True)
class Exact:
    """The chain itself.

    Attributes:
        first: P(T > t) for t = 0, 1, ... from an unknown start, until it stays as it is.
        again: the same from one hit to the next.
        never: the probability of a start from which the walk goes round and round and never lands on the port.
    """

    first: tuple[float, ...]
    again: tuple[float, ...]
    never: float = 0.0

    @property
    def mean(self) -> float:
        """See :class:`Law`."""
        return math.inf if self.never else sum(self.first)

    @property
    def between(self) -> float:
        """See :class:`Law`."""
        return sum(self.again)

    def survival(self, attempts: float) -> float:
        """See :class:`Law`."""
        return max(self.never, _step(self.first, attempts))

    def survival_between(self, attempts: float) -> float:
        """See :class:`Law`."""
        return _step(self.again, attempts)


def _step(values: tuple[float, ...], attempts: float) -> float:
    if attempts < 0:
        return 1.0
    return values[math.floor(attempts)] if attempts < len(values) else 0.0


def law_of(circle: Circle, port: int) -> Law | None:
    """Return the law of a walk that is to land on ``port``, or None if it never does."""
    landings = circle.landings(port)
    if not landings:
        return None
    slots = len(circle)
    if not circle.strides:
        return Independent(len(landings) / slots)
    candidates = len(set(circle.chosen))
    if min(slots, candidates * circle.strides) * candidates <= _FEW:
        return _carry_on(circle, frozenset(landings))
    return _measure_a_lap(circle, landings)


def _next(circle: Circle, slot: int) -> Iterator[tuple[int, float]]:
    """Yield the slots from which the attempt after the one from ``slot`` can start, each with its probability."""
    skipped, strides = circle.skipped[slot], circle.strides
    # The entry moves on by what was skipped, or by the random number if that is more.
    stay = min(skipped + 1, strides)
    yield (slot + skipped + 1) % len(circle), stay / strides
    for stride in range(stay + 1, strides + 1):
        yield (slot + stride) % len(circle), 1 / strides


def _carry_on(circle: Circle, landings: frozenset[int]) -> Exact:
    uniform = {slot: 1 / len(circle) for slot in range(len(circle))}
    after_hits: dict[int, float] = defaultdict(float)
    open_slots = _leading_to(circle, landings)
    never = sum(weight for slot, weight in uniform.items() if slot not in open_slots)

    def survivals(start: dict[int, float], hits: dict[int, float] | None) -> Iterator[float]:
        here = start
        lost = never if start is uniform else 0.0  # after a hit there is always a way back to it
        alive = 1.0 - lost
        while alive > _GONE:
            yield alive + lost
            there: dict[int, float] = defaultdict(float)
            alive = 0.0
            for slot, weight in here.items():
                if slot in landings:
                    if hits is not None:
                        hits[slot] += weight
                    continue
                if slot not in open_slots:
                    continue
                alive += weight
                for onward, share in _next(circle, slot):
                    there[onward] += weight * share
            here = there

    first = tuple(survivals(uniform, after_hits))
    again: dict[int, float] = defaultdict(float)
    for slot, weight in after_hits.items():
        for onward, share in _next(circle, slot):
            again[onward] += weight * share
    return Exact(first, tuple(survivals(again, None)), never)


def _leading_to(circle: Circle, landings: frozenset[int]) -> frozenset[int]:
    """Return the slots from which the walk can land on one of these; the fixed strides of an old kernel may not."""
    before: dict[int, list[int]] = defaultdict(list)
    for slot in range(len(circle)):
        for onward, _ in _next(circle, slot):
            before[onward].append(slot)
    found = set(landings)
    waiting = list(landings)
    while waiting:
        for slot in before[waiting.pop()]:
            if slot not in found:
                found.add(slot)
                waiting.append(slot)
    return frozenset(found)


def _measure_a_lap(circle: Circle, landings: tuple[int, ...]) -> Laps:
    """Walk one lap that starts just past the port, counting attempts and hits in expectation."""
    slots, strides = len(circle), circle.strides
    # Cut the circle where the gap before the first landing is widest, so that a lap meets all landings together.
    gaps = [(landing - landings[number - 1]) % slots for number, landing in enumerate(landings)]
    cut = landings[gaps.index(max(gaps)) - 1] + 1
    hitting = frozenset((landing - cut) % slots for landing in landings)
    # An attempt starts at a place with the probability of the direct jumps to it, and an even share from each of the
    # eight places before it; a running sum of differences holds the latter.
    direct = [0.0] * (slots + strides + max(circle.skipped))
    pour = [0.0] * (slots + strides + 1)
    mean_stride = (strides + 1) / 2
    for past in range(strides):  # where a settled walk steps over a line: P(stride > past) / mean stride
        direct[past] = (strides - past) / strides / mean_stride
    attempts = hits = even = 0.0
    for place in range(slots):
        even += pour[place]
        weight = direct[place] + even
        attempts += weight
        slot = (place + cut) % slots
        if place in hitting:
            hits += weight
        skipped = circle.skipped[slot]
        stay = min(skipped + 1, strides)
        direct[place + skipped + 1] += weight * stay / strides
        if stay < strides:
            pour[place + stay + 1] += weight / strides
            pour[place + strides + 1] -= weight / strides
    hits = min(1.0, hits)
    variance = (strides**2 - 1) / 12
    head_start = max(0.0, len(landings) / slots - hits / attempts)
    return Laps(attempts, math.sqrt(attempts * variance) / mean_stride, hits, head_start)
