"""The vocabulary of the reconnecting state machine: what a shell tells it, and what it answers.

Plain records, so that :mod:`tailbite.reconnect.machine` can be fed and asked in a test without a socket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from tailbite.reconnect.events import Event

__all__ = [
    "Asked",
    "Believed",
    "Closed",
    "Deliver",
    "Drop",
    "Effect",
    "Emit",
    "Failed",
    "Input",
    "Left",
    "Open",
    "Opened",
    "Raise",
    "Sleep",
    "Slept",
    "Stop",
    "Verify",
]

# -- inputs: what happened. ``now`` is a monotonic clock in seconds.


@dataclass(frozen=True, slots=True)
class Input:
    """Something happened at ``now``."""

    now: float


@dataclass(frozen=True, slots=True)
class Asked(Input):
    """The user wants the next connection."""


@dataclass(frozen=True, slots=True)
class Slept(Input):
    """The wait is over."""


@dataclass(frozen=True, slots=True)
class Opened(Input):
    """There is a connection; it is not to itself."""

    local: str
    remote: str


@dataclass(frozen=True, slots=True)
class Believed(Input):
    """The verifier has accepted the peer."""


@dataclass(frozen=True, slots=True)
class Failed(Input):
    """Opening or verifying failed; ``transient`` is the classifier's answer to "may it be tried again?"."""

    error: BaseException
    transient: bool


@dataclass(frozen=True, slots=True)
class Left(Input):
    """The user's block was left; the shell has closed the connection."""

    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Closed(Input):
    """The loop was closed or cancelled."""


# -- effects: what to do, in this order.


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell the hooks."""

    event: Event


@dataclass(frozen=True, slots=True)
class Open:
    """Open a connection within ``timeout`` seconds; feed Opened or Failed."""

    timeout: float


@dataclass(frozen=True, slots=True)
class Verify:
    """Carry out the verifier's conversation within ``timeout`` seconds; feed Believed or Failed."""

    timeout: float


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Give the connection to the user; feed Left when he is done with it."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait ``seconds``; feed Slept."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Raise:
    """End with this error."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Stop:
    """End without an error: the loop was closed."""


Effect: TypeAlias = Emit | Open | Verify | Drop | Deliver | Sleep | Raise | Stop
