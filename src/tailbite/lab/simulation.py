"""Simulation of many hosts that choose source ports as the kernel does, in one array.

The simulation checks the closed form of :mod:`tailbite.core.laws` and shares only the circle of ports with it. A host
that is far from the dead port and from reserved ports takes many strides in one step: the distribution of their sum
is known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from tailbite.core.selection import Circle

__all__ = ["SimulatedHosts", "simulate_hosts"]

_AT_ONCE = 250_000
_LEAPS = (512, 64, 8)


@dataclass(frozen=True, slots=True)
class SimulatedHosts:
    """Result of a simulation.

    Attributes:
        hosts: number of simulated hosts.
        attempts: largest number of connects of each host.
        hit: number of hosts that connected to themselves.
    """

    hosts: int
    attempts: int
    hit: int

    @property
    def share(self) -> float:
        """The share of hosts that connected to themselves."""
        return self.hit / self.hosts


def simulate_hosts(circle: Circle, port: int, *, hosts: int, attempts: int, seed: int = 1) -> SimulatedHosts:
    """Let every host connect to ``port`` up to ``attempts`` times, and count the hosts that connect to themselves.

    Args:
        circle: the slots of the client, from :func:`tailbite.core.selection.circle_of`.
        port: the dead port.
        hosts: number of hosts.
        attempts: connects of each host; a host that connected to itself stops.
        seed: seed of the generator; the same seed gives the same result.
    """
    generator = np.random.default_rng(seed)
    hit = 0
    for first in range(0, hosts, _AT_ONCE):
        hit += _simulate_batch(circle, port, min(_AT_ONCE, hosts - first), attempts, generator)
    return SimulatedHosts(hosts, attempts, hit)


def _simulate_batch(circle: Circle, port: int, hosts: int, attempts: int, generator: np.random.Generator) -> int:
    slots, strides = len(circle), circle.strides
    lands = np.array(circle.chosen) == port
    if not strides:
        # Independent choices need no walk: a host is hit if its first hit comes in time.
        share = lands.mean()
        return int((generator.geometric(share, hosts) <= attempts).sum()) if share else 0
    skipped = np.array(circle.skipped, dtype=np.int64)
    distances = _distances(lands | (skipped > 0))
    leaps = [(steps, _sum_of_strides(strides, steps)) for steps in _LEAPS]
    at = generator.integers(0, slots, hosts)
    left = np.full(hosts, attempts)
    hit = 0
    while len(at):
        clear = distances[at]
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


def _distances(special: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the distance from each slot to the next special slot, 0 for a special slot itself."""
    slots = len(special)
    places = np.flatnonzero(special)
    if not len(places):
        return np.full(slots, slots)
    wrapped = np.append(places, places[0] + slots)
    here = np.arange(slots)
    return wrapped[np.searchsorted(places, here)] - here


def _sum_of_strides(strides: int, steps: int) -> npt.NDArray[np.float64]:
    """Return the distribution function of the sum of ``steps`` strides, minus ``steps`` (each is at least 1)."""
    single = np.full(strides, 1 / strides)
    total = np.ones(1)
    for _ in range(steps):
        total = np.convolve(total, single)
    return np.cumsum(total)[:-1]
