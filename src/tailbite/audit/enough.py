"""The end of a watch: was enough of a client seen for a verdict, or can nothing more be expected? Pure.

Times count from the first dial, so a program that starts slowly is watched for as long as any other. No verdict may
depend on when the watch happened to end: a connection to itself that began in time is watched until its end is known,
and a client that could still pass is watched until it came back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.audit.records import COMEBACKS

if TYPE_CHECKING:
    from tailbite.audit.observe import SelfConnects
    from tailbite.audit.records import Limits, Phase

__all__ = ["Watched", "is_enough"]

_CROWDED = 2.0
"""Seconds after which a client with a port of its own, which does not dial, is given a wide trap instead."""

_SETTLED = 1.5
"""Seconds after its last self-connect ended in which a client says what it makes of it, or exits."""


_PASS = 2.0
"""Seconds that a client which runs on is watched at least before it passes, however short the other limits are."""


@dataclass(frozen=True, slots=True)
class Watched:
    """The state of a watch.

    Attributes:
        now: seconds since the client was started.
        known_until: the time up to which its packets were read.
        is_gone: True if neither the client nor anything it started is left.
        crowded_since: when a socket of its own took another port of the trap's range.
        seen: its dials and self-connects.
    """

    now: float
    known_until: float
    is_gone: bool
    crowded_since: float | None
    seen: SelfConnects

    @property
    def duration(self) -> float:
        """Seconds since the first dial; 0 before it."""
        return self.now - self.seen.dialled[0] if self.seen.dialled else 0.0

    def flaps(self, limits: Limits) -> bool:
        """Tell whether several self-connects were seen in the time that a client is given."""
        return len(self.seen.established) > 1 and self.duration >= limits.watch + limits.hold


def is_enough(watched: Watched, limits: Limits, where: Phase, *, must_come_back: bool) -> bool:
    """Tell whether the watch is over.

    Args:
        watched: its state.
        limits: how long to watch.
        where: the trap.
        must_come_back: True if the client could still be called immune or aborting: one that runs on is watched
            until it came back several times, or patience is over.
    """
    seen = watched.seen
    if watched.is_gone:
        return True
    if not seen.dialled:
        return watched.now >= limits.dial or _lacks_room(watched, where)
    if watched.duration >= limits.total:
        return True
    if seen.open_since is not None:
        # A client that flaps has the next one open soon: one that began late is not waited for.
        late = watched.flaps(limits) and _began_late(watched, limits, seen.open_since, must_come_back)
        return late or watched.known_until - seen.open_since >= limits.hold
    if must_come_back and _could_pass(seen):
        least = limits.patience if seen.rounds < COMEBACKS else _PASS
        if watched.duration < least:
            return False
    if seen.last_end is not None and not watched.flaps(limits):
        return watched.duration >= limits.watch and watched.now - seen.last_end >= _SETTLED
    return watched.duration >= limits.watch


def _lacks_room(watched: Watched, where: Phase) -> bool:
    since = watched.crowded_since
    return where.has_wider and since is not None and watched.now - since >= _CROWDED


def _began_late(watched: Watched, limits: Limits, open_since: float, must_come_back: bool) -> bool:
    """Tell whether the self-connect that is open began after all those that a verdict needs."""
    in_time = open_since - watched.seen.dialled[0] < limits.watch + limits.hold
    is_needed = must_come_back and watched.seen.rounds <= COMEBACKS
    return not (in_time or is_needed)


def _could_pass(seen: SelfConnects) -> bool:
    """Tell whether nothing but good was seen of the client."""
    return all(hit.is_aborted for hit in seen.established) and seen.answered is None
