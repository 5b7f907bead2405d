"""The delays before the attempts of an outage, and the limits after which a loop gives up.

Full jitter: every delay is a random number between 0 and a ceiling that grows by ``factor``. Of the ways to add
jitter it needs the fewest calls when many clients lose the same server at once (M. Brooker, "Exponential Backoff And
Jitter", AWS Architecture Blog 2015), and one random number per delay keeps clients from staying in step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import random
from typing import TYPE_CHECKING, Any, TypeAlias

from tailbite.core.duration import checked_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Backoff", "Delays", "Policy"]

Delays: TypeAlias = "Callable[[], Iterator[float]]"
"""Function that returns the delays of one outage, in seconds; an iterator that ends means: give up."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter; call it for the delays of one outage.

    Attributes:
        initial: the ceiling of the first delay in seconds.
        maximum: the highest ceiling in seconds.
        factor: ratio of each ceiling to the one before; 1 keeps the ceiling at ``initial``.
        draw: returns a number in [0, 1); ``lambda: 1.0`` switches the jitter off.

    Raises:
        ValueError: the delays would be negative, unbounded or shrinking.
        TypeError: an argument has the wrong type.
    """

    initial: float = 0.1
    maximum: float = 30.0
    factor: float = 2.0
    draw: Callable[[], float] = field(default=random, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("initial", "maximum"):
            checked_seconds(name, getattr(self, name))
        factor: Any = self.factor
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            raise TypeError(f"factor must be a number, not {factor!r}")
        if not callable(self.draw):
            raise TypeError(f"draw must be a function that returns a number in [0, 1), not {self.draw!r}")
        if not (0 <= self.initial <= self.maximum and math.isfinite(self.maximum)):
            raise ValueError(f"backoff needs 0 <= initial <= maximum, not {self.initial} and {self.maximum}")
        if not (self.factor >= 1 and math.isfinite(self.factor)):
            raise ValueError(f"backoff needs a factor of at least 1, not {self.factor}")

    def __call__(self) -> Iterator[float]:
        """Yield delays in seconds, without end."""
        ceiling = self.initial
        while True:
            yield self.draw() * ceiling
            ceiling = min(self.maximum, ceiling * self.factor)


@dataclass(frozen=True, slots=True)
class Policy:
    """Retry policy of an outage: the delays between attempts, and the limits.

    An outage begins when the loop starts or a connection ends, and is over when a connection has lasted as long as a
    healthy one. An outage has one attempt at least. None means: no limit.

    Attributes:
        backoff: called at the start of an outage, returns its delays in seconds. If they end, so do the attempts.
        max_attempts: highest number of attempts in an outage.
        deadline: longest duration of an outage in seconds, counted from the moment a connection is asked for; the
            last attempt begins shortly before the end, and no attempt lasts longer.

    Raises:
        ValueError: a limit that leaves no attempt.
        TypeError: an argument has the wrong type.
    """

    backoff: Delays = Backoff()
    max_attempts: int | None = None
    deadline: float | None = None

    def __post_init__(self) -> None:
        backoff: Any = self.backoff
        if not callable(backoff) or isinstance(backoff, type):
            raise TypeError(
                f"backoff must be a tailbite.Backoff(...) or a function that returns an iterator of seconds, "
                f"not {backoff!r}"
            )
        most: Any = self.max_attempts
        if most is not None and (not isinstance(most, int) or isinstance(most, bool)):
            raise TypeError(f"max_attempts must be a whole number, not {most!r}")
        if most is not None and most < 1:
            raise ValueError(f"max_attempts must be at least 1, not {most}")
        if self.deadline is not None and not checked_seconds("deadline", self.deadline) > 0:
            raise ValueError(f"deadline must be more than 0 seconds, not {self.deadline}")

    def delays(self) -> Iterator[float]:
        """Return the delays of one outage in seconds.

        Raises:
            TypeError: the backoff returned something else than numbers one after the other.
            ValueError: a delay, when it is asked for, is negative or not finite.
        """
        given: Any = self.backoff()
        try:
            return _checked_delays(iter(given))
        except TypeError:
            raise TypeError(f"backoff must return an iterator of seconds, and it returned {given!r}") from None


def _checked_delays(delays: Iterator[float]) -> Iterator[float]:
    for delay in delays:
        wrong = f"backoff gave {delay!r} as a delay: it must be a finite number of seconds, 0 or more"
        try:
            is_delay = 0 <= delay < math.inf
        except TypeError:
            raise TypeError(wrong) from None
        if not is_delay:
            raise ValueError(wrong)
        yield delay
