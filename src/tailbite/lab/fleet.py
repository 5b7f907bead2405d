"""Many hosts at once: the same draws as the kernel's, a million hosts in one array.

Beside the closed form of :mod:`tailbite.core.laws`, as a check that shares nothing with it but the circle. A host
that is far from anything special takes many strides at once: the distribution of their sum is known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from tailbite.core.selection import Circle

__all__ = ["Fleet", "simulate"]

_AT_ONCE = 250_000
_LEAPS = (512, 64, 8)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What happened to simulated hosts.

    Attributes:
        hosts: how many were simulated.
        attempts: connects each of them made at most.
        hit: hosts that connected to themselves.
    """

    hosts: int
    attempts: int
    hit: int

    @property
    def share(self) -> float:
        """The share of hosts that connected to themselves."""
        return self.hit / self.hosts


def simulate(circle: Circle, port: int, *, hosts: int, attempts: int, seed: int = 1) -> Fleet:
    """Let every host dial ``port`` this often, from a start of its own, and count who connects to itself.

    Args:
        circle: the slots of the client, from :func:`tailbite.core.selection.circle_of`.
        port: the dead port.
        hosts: how many hosts.
        attempts: connects of each; a host that connected to itself stops.
        seed: of the generator; the same seed gives the same fleet.
    """
    generator = np.random.default_rng(seed)
    hit = 0
    for first in range(0, hosts, _AT_ONCE):
        hit += _some(circle, port, min(_AT_ONCE, hosts - first), attempts, generator)
    return Fleet(hosts, attempts, hit)


def _some(circle: Circle, port: int, hosts: int, attempts: int, generator: np.random.Generator) -> int:
    slots, strides = len(circle), circle.strides
    lands = np.array(circle.chosen) == port
    if not strides:
        # Independent draws need no walk: a host is hit if its first hit comes in time.
        share = lands.mean()
        return int((generator.geometric(share, hosts) <= attempts).sum()) if share else 0
    skipped = np.array(circle.skipped, dtype=np.int64)
    ahead = _ahead(lands | (skipped > 0))
    leaps = [(steps, _sum_of_strides(strides, steps)) for steps in _LEAPS]
    at = generator.integers(0, slots, hosts)
    left = np.full(hosts, attempts)
    hit = 0
    while len(at):
        clear = ahead[at]
        moved = np.zeros(len(at), dtype=bool)
        for steps, table in leaps:
            go = np.flatnonzero(~moved & (clear > strides * steps) & (left >= steps))
            at[go] = (at[go] + steps + np.searchsorted(table, generator.random(len(go)), side="right")) % slots
            left[go] -= steps
            moved[go] = True
        rest = np.flatnonzero(~moved)
        here = at[rest]
        came = lands[here]
        hit += int(came.sum())
        at[rest] = (here + np.maximum(generator.integers(0, strides, len(rest)), skipped[here]) + 1) % slots
        left[rest] -= 1
        left[rest[came]] = 0
        going = left > 0
        at, left = at[going], left[going]
    return hit


def _ahead(special: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return for each slot how far the next special one is, itself included."""
    slots = len(special)
    places = np.flatnonzero(special)
    if not len(places):
        return np.full(slots, slots)
    wrapped = np.append(places, places[0] + slots)
    here = np.arange(slots)
    return wrapped[np.searchsorted(places, here)] - here


def _sum_of_strides(strides: int, steps: int) -> npt.NDArray[np.float64]:
    """Return the distribution function of the sum of so many strides, less their number (each is at least 1)."""
    single = np.full(strides, 1 / strides)
    total = np.ones(1)
    for _ in range(steps):
        total = np.convolve(total, single)
    return np.cumsum(total)[:-1]
