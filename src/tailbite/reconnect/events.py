"""The events of a persistent connection: frozen records for hooks.

A hook is any callable that takes one of them::

    def hook(event: tailbite.events.Event) -> None:
        if isinstance(event, tailbite.events.SelfConnected): ...

``at`` is the loop's monotonic clock in seconds: the difference between two events of one loop is a time, the value
alone means nothing. ``number`` counts the attempts of one outage from 1.
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
    """An attempt that did not lead to a connection that lasted.

    Attributes:
        number: the number of the attempt in its outage, from 1.
        at: the time of the failure, on the loop's monotonic clock, in seconds.
        took: seconds from the beginning of the attempt until then.
        error: the reason; None if there was a connection and the user's block ended without an error.
    """

    number: int
    at: float
    took: float
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a persistent connection; the base of all others.

    Attributes:
        target: the server of the loop.
        at: the time of the event, on the loop's monotonic clock, in seconds.
    """

    target: Target
    at: float


@dataclass(frozen=True, slots=True)
class Attempting(Event):
    """An attempt begins.

    Attributes:
        number: the number of the attempt in its outage, from 1.
        timeout: the seconds the attempt may take.
    """

    number: int
    timeout: float


@dataclass(frozen=True, slots=True)
class Refused(Event):
    """An attempt failed before there was a connection: refused, unreachable, timed out, unknown name, TLS.

    Attributes:
        number: the number of the attempt in its outage, from 1.
        took: seconds from the beginning of the attempt until then.
        error: the reason.
    """

    number: int
    took: float
    error: BaseException


@dataclass(frozen=True, slots=True)
class SelfConnected(Event):
    """An attempt was connected to itself, and was reset: no server listens there.

    Attributes:
        number: the number of the attempt in its outage, from 1.
        took: seconds from the beginning of the attempt until then.
        error: a :class:`~tailbite.SelfConnectError`.
    """

    number: int
    took: float
    error: BaseException


@dataclass(frozen=True, slots=True)
class VerifyFailed(Event):
    """A server accepted the connection, and the verifier refused it.

    Attributes:
        number: the number of the attempt in its outage, from 1.
        took: seconds from the beginning of the attempt until then.
        verifier: the name of the verifier.
        error: the reason, mostly a :class:`~tailbite.VerifyError`.
    """

    number: int
    took: float
    verifier: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class Verified(Event):
    """The verifier accepted the peer.

    Attributes:
        number: the number of the attempt in its outage, from 1.
        took: seconds of the verifier's conversation.
        verifier: the name of the verifier.
    """

    number: int
    took: float
    verifier: str


@dataclass(frozen=True, slots=True)
class Connected(Event):
    """A connection goes to the user, verified if there is a verifier.

    Attributes:
        number: the number of the attempt in its outage, from 1.
        took: seconds from the beginning of the attempt until then.
        local: the local address and port as text; for a Unix socket its path, mostly empty.
        remote: the server's address and port as text, or the path of its Unix socket.
    """

    number: int
    took: float
    local: str
    remote: str


@dataclass(frozen=True, slots=True)
class Lost(Event):
    """A connection ended.

    Attributes:
        lasted: the seconds it lasted.
        error: the reason; None if the user's block ended without an error.
    """

    lasted: float
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Waiting(Event):
    """The loop waits before the next attempt.

    Attributes:
        number: the number of the attempt to come.
        seconds: the time until then.
    """

    number: int
    seconds: float


@dataclass(frozen=True, slots=True)
class GaveUp(Event):
    """The loop makes no more attempts in this outage.

    Attributes:
        attempts: the number of attempts in the outage.
        why: the limit that was reached, in words.
        error: the error that the user gets.
    """

    attempts: int
    why: str
    error: BaseException
