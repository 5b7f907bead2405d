"""The verdict on a client, as records: the word, the belief, the timings. The judge makes them, reports show them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailbite.audit.records import Observation

__all__ = ["Belief", "Figure", "Remains", "Timing", "Verdict", "Word"]


class Word(Enum):
    """The verdict in one word, from the best to the worst; the last three do not judge self-connects."""

    IMMUNE = "immune"
    """It dialled P and came back, or ended, and never connected to itself, where a plain client did."""
    ABORTS = "aborts"
    """It connected to itself; a server was kept down for less than 1.5 s."""
    BLOCKS = "blocks"
    """It connected to itself and let go; a server was kept down for longer, by a TIME-WAIT mostly: about a minute."""
    HOLDS = "holds"
    """It kept the connection: a server is down for longer than a TIME-WAIT, mostly as long as the client runs."""
    UNEXERCISED = "unexercised"
    """It never dialled P, so it does not pass."""
    INCONCLUSIVE = "inconclusive"
    """Too little was seen: the trap did not work for the control client, or the client did not come back."""
    UNSUPPORTED = "unsupported"
    """It said so itself (exit status 127), or it is not installed."""


class Belief(Enum):
    """Belief of the client about the connection to itself: did it mistake it for one to the server?"""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class Remains(Enum):
    """The state that the worst of the client's self-connects left P in."""

    NOTHING = "nothing"
    TIME_WAIT = "time-wait"
    ESTABLISHED = "established"


class Figure(Enum):
    """State of a measurement of time: a figure, or the reason why it is missing."""

    MEASURED = "measured"
    LONGER = "longer-than-patience"
    """Not over when patience was."""
    NEVER = "never"
    """Not going to happen: the client had ended."""
    NOT_MEASURED = "not-measured"
    """Asked for, but it could not be measured; the reason says why."""
    NOT_ASKED = "not-asked"


@dataclass(frozen=True, slots=True)
class Timing:
    """A measurement of time.

    Attributes:
        outcome: whether there is a figure.
        seconds: the figure; for LONGER how long was waited; None otherwise.
        reason: why the figure is missing; "" if there is nothing to say.
    """

    outcome: Figure = Figure.NOT_ASKED
    seconds: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of the audit of one client.

    Attributes:
        client: its name.
        version: what it says of itself.
        verdict: the word.
        reason: one sentence of why.
        believed: whether it took itself for the server.
        self_connects: how many, over all phases.
        dials: how many SYNs it sent to P.
        comebacks: how often it came back, in the phase with the fewest comebacks; None if it ended or never dialled.
        longest_hold: seconds; a connection that was still open counts as long as it was watched.
        bytes_to_itself: bytes it wrote to itself.
        left: what was left on P.
        can_bind_plain: True if a server without SO_REUSEADDR could bind after the worst phase; None if unknown.
        can_bind_reuse: the same with SO_REUSEADDR.
        server_down_plain: how long a server without SO_REUSEADDR was kept from starting.
        server_down_reuse: the same with SO_REUSEADDR.
        server_down: the same for the server of ``--server``.
        recovered_after: from the server's first attempt until the client was connected to it.
        dials_to_hit: how many dials the first self-connect took in a range of 16 ports; None if it never did.
        observations: what it rests on.
        command: what was run.
        groups: its groups in the catalogue.
        image: the container image it ran in; "" if in none.
        troubles: what went wrong in single phases, one sentence each.
    """

    client: str
    version: str
    verdict: Word
    reason: str
    believed: Belief = Belief.UNKNOWN
    self_connects: int = 0
    dials: int = 0
    comebacks: int | None = None
    longest_hold: float | None = None
    bytes_to_itself: int = 0
    left: Remains | None = None
    can_bind_plain: bool | None = None
    can_bind_reuse: bool | None = None
    server_down_plain: Timing = Timing()
    server_down_reuse: Timing = Timing()
    server_down: Timing = Timing()
    recovered_after: Timing = Timing()
    dials_to_hit: int | None = None
    observations: tuple[Observation, ...] = ()
    command: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    image: str = ""
    troubles: tuple[str, ...] = ()

    def require(self, word: str = "immune") -> Verdict:
        """Return this verdict if it is at least as good as ``word``.

        Args:
            word: ``immune`` or ``aborts``.

        Raises:
            AssertionError: it is not; the text is the client, the verdict and the reason.
            ValueError: another word.
        """
        __tracebackhide__ = True
        if word not in ("immune", "aborts"):
            raise ValueError(f"{word!r} cannot be required; choose immune or aborts")
        good = [Word.IMMUNE] if word == "immune" else [Word.IMMUNE, Word.ABORTS]
        if self.verdict not in good:
            raise AssertionError(f"{self.client} is not {word}: {self.verdict.value}: {self.reason}")
        return self
