"""What the helpers of one guarded program share, in memory that outlives each of them: the call in hand, counts."""

from __future__ import annotations

import ctypes
import mmap
from enum import IntEnum
from typing import Final

from tailbite.kernel.seccomp import NOTIFICATION_SIZE

__all__ = ["Outcome", "Tally"]

_COUNTS_AT: Final = 128
_ATTEMPTS_AT: Final = 112
_GUARDED_AT: Final = 120


class Outcome(IntEnum):
    """What was done about a connect call, by its place in the counts."""

    PASSED = 0
    """Nothing was needed: no TCP, or the port lies outside the ephemeral range."""
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

    The kernel writes a received call straight into it, so whoever takes over after a helper was killed finds the
    call that waits for an answer, however early the other died.

    Attributes:
        call: where the call in hand is received.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.call = (ctypes.c_char * NOTIFICATION_SIZE).from_buffer(self._memory)
        self._counts = (ctypes.c_uint64 * (len(Outcome) + 1)).from_buffer(self._memory, _COUNTS_AT)
        self._attempts = ctypes.c_uint64.from_buffer(self._memory, _ATTEMPTS_AT)
        self._guarded = ctypes.c_bool.from_buffer(self._memory, _GUARDED_AT)

    @property
    def is_guarded(self) -> bool:
        """True once the program is under its guard."""
        return self._guarded.value

    @is_guarded.setter
    def is_guarded(self, value: bool) -> None:
        self._guarded.value = value

    def count(self, outcome: Outcome) -> None:
        """Add one."""
        self._counts[outcome] += 1

    def count_takeover(self) -> None:
        """Note that a helper took over from one that was killed."""
        self._counts[len(Outcome)] += 1

    def try_again(self) -> bool:
        """Note that the call in hand is tried once more; False when it has been the end of too many helpers."""
        self._attempts.value += 1
        return self._attempts.value <= 3

    def settle(self) -> None:
        """Note that the call in hand is answered."""
        self._attempts.value = 0

    def counts(self) -> dict[str, int]:
        """Return how often each outcome was, and how often a helper took over."""
        return {
            **{outcome.name.lower(): self._counts[outcome] for outcome in Outcome},
            "takeovers": self._counts[len(Outcome)],
        }
