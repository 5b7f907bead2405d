"""What somebody who waits for a server has seen of it so far; pure."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from enum import Enum

from tailbite.errors import AddressesError, SelfConnectError, VerifyError

__all__ = ["Saw", "Sighting", "judge"]


class Saw(Enum):
    """What an attempt met; the value is said to users."""

    NOTHING = "not reached yet"
    READY = "ready"
    NAME_UNKNOWN = "name unknown"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    NO_ANSWER = "no answer"
    ITSELF = "connected to itself"
    SILENT = "accepted but silent"
    CLOSED = "accepted, then closed"
    ECHO = "own echo"
    WRONG_PROTOCOL = "wrong protocol"
    NOT_READY = "not ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Sighting:
    """The last that was seen of one server.

    Attributes:
        target: what was waited for: "db:5432 (postgres)".
        saw: what the last attempt met.
        detail: in words, may be empty: "looks like SSH: ...".
        attempts: how many there were.
        seconds: from the start of the wait to this.
    """

    target: str
    saw: Saw = Saw.NOTHING
    detail: str = ""
    attempts: int = 0
    seconds: float = 0.0

    @property
    def ready(self) -> bool:
        """True if the server is there."""
        return self.saw is Saw.READY

    def __str__(self) -> str:
        return f"{self.target}: {self.saw.value}" + (f" ({self.detail})" if self.detail else "")


_REASONS = {
    "silent": Saw.SILENT,
    "closed": Saw.CLOSED,
    "echo": Saw.ECHO,
    "protocol": Saw.WRONG_PROTOCOL,
    "not ready": Saw.NOT_READY,
}
_ORDER = tuple(Saw)
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)


def judge(error: Exception) -> tuple[Saw, str]:
    """Say what an attempt met that ended with ``error``, and the detail."""
    if isinstance(error, VerifyError):
        # "it said nothing" is what "accepted but silent" says already.
        return _REASONS[error.reason], error.detail if error.received or error.reason == "not ready" else ""
    if isinstance(error, AddressesError):
        # Of a name with several addresses the one that got furthest tells most.
        return max(map(judge, error.errors), key=lambda seen: _ORDER.index(seen[0]))
    if isinstance(error, SelfConnectError):
        return Saw.ITSELF, "nobody listens there"
    if isinstance(error, socket.gaierror):
        return Saw.NAME_UNKNOWN, error.strerror or str(error)
    if isinstance(error, UnicodeError):
        return Saw.NAME_UNKNOWN, "it is no name"
    if isinstance(error, ConnectionRefusedError):
        return Saw.REFUSED, ""
    if isinstance(error, FileNotFoundError):
        return Saw.REFUSED, "there is no such socket"
    if isinstance(error, TimeoutError):
        return Saw.NO_ANSWER, ""
    detail = getattr(error, "strerror", None) or str(error)
    return (Saw.UNREACHABLE if getattr(error, "errno", None) in _UNREACHABLE else Saw.FAILED), detail
