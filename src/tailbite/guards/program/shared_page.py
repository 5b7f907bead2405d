"""What the helpers of one guarded program share, in memory that outlives each of them: the call in hand, counts."""

from __future__ import annotations

import mmap
from enum import IntEnum
from typing import Final

from tailbite.kernel.seccomp import NOTIFICATION_SIZE

__all__ = ["Outcome", "Tally"]

_GUARDED_AT: Final = NOTIFICATION_SIZE
_COUNTS_AT: Final = NOTIFICATION_SIZE + 8
_MOST_TAKEOVERS: Final = 2


class Outcome(IntEnum):
    """What was done about a connect call, by its place in the counts."""

    PASSED = 0
    """Nothing was needed: no Internet address, or the port lies outside the ephemeral range."""
    STEERED = 1
    """The source port was kept away from the destination's."""
    RELEASED = 2
    """The same, after the kernel had given exactly that port to a bind to port 0."""
    HELD = 3
    """The destination port was held while the call ran."""
    LEFT = 4
    """The program itself had bound the socket to the destination's port."""
    UNSEEN = 5
    """The caller could not be looked into."""


class Tally:
    """One page that all helpers map.

    The kernel writes a received call straight to its beginning, so whoever takes over after a helper was killed
    finds the call that waits for an answer, however early the other died.

    Attributes:
        memory: the page.
        counts: how often each outcome was, in their order.
    """

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, mmap.PAGESIZE)
        page = memoryview(self.memory)
        self._guarded = page[_GUARDED_AT : _GUARDED_AT + 1]
        counts = page[_COUNTS_AT:].cast("Q")
        self.counts = counts[: len(Outcome)]
        self._takeovers = counts[len(Outcome) :]  # how many there were, and of which call the last ones were

    @property
    def is_guarded(self) -> bool:
        """True once the program is under its guard."""
        return bool(self._guarded[0])

    @is_guarded.setter
    def is_guarded(self, value: bool) -> None:
        self._guarded[0] = value

    def count_takeover(self) -> None:
        """Note that a helper took over from one that was killed."""
        self._takeovers[0] += 1

    def try_again(self, call_id: int) -> bool:
        """Note that a call left by a killed helper is tried once more; False when it was the end of too many."""
        if self._takeovers[1] != call_id:
            self._takeovers[1], self._takeovers[2] = call_id, 0
        self._takeovers[2] += 1
        return self._takeovers[2] <= _MOST_TAKEOVERS

    def by_name(self) -> dict[str, int]:
        """Return how often each outcome was, and how often a helper took over."""
        counts = {outcome.name.lower(): self.counts[outcome] for outcome in Outcome}
        return {**counts, "takeovers": self._takeovers[0]}
