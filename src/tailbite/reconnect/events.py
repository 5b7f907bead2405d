"""What happens to a persistent connection, as frozen records for hooks.

A hook is any callable that takes one of them::

    def hook(event: tailbite.Event) -> None:
        if isinstance(event, tailbite.reconnect.events.SelfConnected): ...

``at`` is the loop's monotonic clock in seconds: differences between two events of one loop mean something, its value
alone does not. ``number`` counts the attempts of one outage from 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailbite.connect.target import Target

__all__ = [
    "Attempting",
    "Connected",
    "Event",
    "FailedAttempt",
    "GaveUp",
    "Lost",
    "Refused",
    "SelfConnected",
    "Verified",
    "VerifyFailed",
    "Waiting",
]


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """One attempt that did not lead to a connection that lasted.

    Attributes:
        number: which attempt of its outage it was, from 1.
        at: when it failed.
        took: seconds from its beginning until then.
        error: why; None if a connection was there and the user's block ended without an error.
    """

    number: int
    at: float
    took: float
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened.

    Attributes:
        target: where the connection goes.
        at: when, on the loop's monotonic clock, in seconds.
    """

    target: Target
    at: float


@dataclass(frozen=True, slots=True)
class Attempting(Event):
    """An attempt begins, and may take ``timeout`` seconds."""

    number: int
    timeout: float


@dataclass(frozen=True, slots=True)
class Refused(Event):
    """An attempt failed before there was a connection: refused, unreachable, timed out, unknown name, TLS."""

    number: int
    took: float
    error: BaseException


@dataclass(frozen=True, slots=True)
class SelfConnected(Event):
    """An attempt ended at the socket itself, which has been reset: nobody listens there."""

    number: int
    took: float
    error: BaseException


@dataclass(frozen=True, slots=True)
class VerifyFailed(Event):
    """Something accepted the connection and is not believed to be the server (see ``error.reason``)."""

    number: int
    took: float
    verifier: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class Verified(Event):
    """The peer has shown that it is the server."""

    number: int
    took: float
    verifier: str


@dataclass(frozen=True, slots=True)
class Connected(Event):
    """The connection is there, verified if a verifier was given, and goes to the user.

    ``local`` and ``remote`` are address and port as text; for a Unix socket its path.
    """

    number: int
    took: float
    local: str
    remote: str


@dataclass(frozen=True, slots=True)
class Lost(Event):
    """A connection ended after ``lasted`` seconds; ``error`` is None if the user's block was left without one."""

    lasted: float
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Waiting(Event):
    """The next attempt, which will be ``number``, begins in ``seconds``."""

    number: int
    seconds: float


@dataclass(frozen=True, slots=True)
class GaveUp(Event):
    """There will be no more attempts: ``why`` in words, ``error`` is what the user gets."""

    attempts: int
    why: str
    error: BaseException
