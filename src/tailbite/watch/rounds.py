"""The choice of the namespaces that an inspection visits now, when not all can be afforded. Pure.

The watcher's own namespace is inspected each time. The others take turns, so that each is inspected within
:data:`ROUND_S`; those that an event named come first, then the ones that waited longest. Namespaces without TCP
sockets are skipped, which costs next to nothing and counts as inspected. A namespace whose inspection took much CPU
time rests for a while, even if an event named it, but not beyond its turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ROUND_S", "Candidate", "Rounds"]

ROUND_S: Final = 60.0
"""TIME-WAIT's life on Linux (TCP_TIMEWAIT_LEN): an inspection within it finds what a closed self-connect left."""
_NEVER: Final = (0, float("-inf"))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A namespace that could be inspected.

    Attributes:
        inode: its number.
        is_own: True for the watcher's own.
        is_empty: True if it is known to have no TCP socket.
    """

    inode: int
    is_own: bool = False
    is_empty: bool = False


class Rounds:
    """The turns of the namespaces.

    Args:
        within: inspect each namespace at least this often, seconds.
        every: seconds between two plans.

    Attributes:
        longest_wait: seconds after which a namespace is due again.
        resting: how many namespaces the last plan left out because they rest, though their turn or an event came.
    """

    def __init__(self, *, within: float = ROUND_S, every: float = 15.0) -> None:
        self.longest_wait = max(within - every, 0.0)  # due early enough not to be late at the next plan
        self.resting = 0
        self._rest_until: dict[int, float] = {}
        self._inspected: dict[int, tuple[int, float]] = {}  # the number of the inspection, and when it was
        self._number = 0
        self._named: set[int] = set()

    def name(self, inode: int) -> None:
        """Have a namespace inspected first at the next plan: something happened there."""
        self._named.add(inode)

    def is_named(self, inode: int) -> bool:
        """Tell whether something happened in a namespace since its last inspection."""
        return inode in self._named

    def plan(self, candidates: Iterable[Candidate], now: float) -> list[int]:
        """Return the namespaces that are due, in the order in which to inspect them; forget those that are gone.

        Args:
            candidates: every namespace there is.
            now: seconds of a monotonic clock.
        """
        present = {one.inode: one for one in candidates}
        self._inspected = {inode: when for inode, when in self._inspected.items() if inode in present}
        self._named &= present.keys()
        self._rest_until = {inode: until for inode, until in self._rest_until.items() if inode in present}
        wanted = [one for one in present.values() if not one.is_empty and self._is_due(one, now)]
        due = [one for one in wanted if now >= self._rest_until.get(one.inode, now)]
        self.resting = len(wanted) - len(due)
        return [one.inode for one in sorted(due, key=self._order)]

    def _is_due(self, one: Candidate, now: float) -> bool:
        if one.is_own or one.inode in self._named:
            return True
        return now - self._inspected.get(one.inode, _NEVER)[1] >= self.longest_wait

    def _order(self, one: Candidate) -> tuple[bool, bool, int]:
        return not one.is_own, one.inode not in self._named, self._inspected.get(one.inode, _NEVER)[0]

    def inspected(self, inode: int, now: float) -> None:
        """Take note that a namespace was inspected, or could not be."""
        self._number += 1
        self._inspected[inode] = (self._number, now)
        self._named.discard(inode)

    def rest(self, inode: int, until: float, now: float) -> None:
        """Leave a namespace alone until a time, but not longer than it may wait for its turn."""
        self._rest_until[inode] = min(until, now + self.longest_wait)
