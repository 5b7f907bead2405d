"""The inputs and the effects of the reconnecting state machine.

Plain records, so that :mod:`tailbite.reconnect.machine` can be fed and asked in a test without a socket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from tailbite.reconnect.events import Event

__all__ = [
    "Asked",
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
    "PeerVerified",
    "Raise",
    "Renewed",
    "Sleep",
    "Slept",
    "Stop",
    "Verify",
]

# -- inputs: events of the outside. ``now`` is a monotonic time in seconds.


@dataclass(frozen=True, slots=True)
class Input:
    """An event at the monotonic time ``now``."""

    now: float


@dataclass(frozen=True, slots=True)
class Asked(Input):
    """The user wants the next connection."""


@dataclass(frozen=True, slots=True)
class Renewed(Input):
    """The user wants a new outage after one that was given up."""


@dataclass(frozen=True, slots=True)
class Slept(Input):
    """The wait is over."""


@dataclass(frozen=True, slots=True)
class Opened(Input):
    """A connection was opened, which is not to itself."""

    local: str
    remote: str


@dataclass(frozen=True, slots=True)
class PeerVerified(Input):
    """The verifier has accepted the peer."""


@dataclass(frozen=True, slots=True)
class Failed(Input):
    """Opening or verifying failed; ``transient`` is the classifier's answer: True if another attempt may help."""

    error: BaseException
    transient: bool


@dataclass(frozen=True, slots=True)
class Left(Input):
    """The user's block was left; the shell has closed the connection."""

    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Closed(Input):
    """The loop was closed or cancelled."""


# -- effects: for the shell to execute, in the order they come.


@dataclass(frozen=True, slots=True)
class Emit:
    """Call the hooks with the event."""

    event: Event


@dataclass(frozen=True, slots=True)
class Open:
    """Open a connection within ``timeout`` seconds; feed Opened or Failed."""

    timeout: float


@dataclass(frozen=True, slots=True)
class Verify:
    """Hold the verifier's conversation within ``timeout`` seconds; feed PeerVerified or Failed."""

    timeout: float


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand the connection to the user; feed Left when their block ends."""


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
