"""The status of a server that a wait is for, as an attempt finds it; pure."""

from __future__ import annotations

import errno
import socket
import warnings
from dataclasses import dataclass
from enum import Enum

from tailbite.errors import AddressesError, SelfConnectError, VerifyError

__all__ = ["Readiness", "TargetStatus", "describe_error"]


class TargetStatus(Enum):
    """The outcome of an attempt. The value is the wording for users; a later member is nearer to the server."""

    NOTHING = "not reached yet"
    READY = "ready"
    FREE = "free"
    NAME_UNKNOWN = "name unknown"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    NO_ANSWER = "no answer"
    ITSELF = "connected to itself"
    SILENT = "accepted but silent"
    INCOMPLETE = "answer incomplete"
    CLOSED = "accepted, then closed"
    ECHO = "own echo"
    WRONG_PROTOCOL = "wrong protocol"
    NOT_READY = "not ready"
    IN_USE = "in use"
    TIME_WAIT = "in TIME-WAIT"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Readiness:
    """The last known status of one target.

    Attributes:
        target: the target: "db:5432 (postgres)".
        status: the outcome of the last attempt.
        detail: more in words, may be empty: "looks like SSH: ...".
        attempts: the number of attempts so far.
        seconds: the time from the start of the wait to the last attempt.
    """

    target: str
    status: TargetStatus = TargetStatus.NOTHING
    detail: str = ""
    attempts: int = 0
    seconds: float = 0.0

    @property
    def ready(self) -> bool:
        """True if the server is ready, or the port is free."""
        return self.status in (TargetStatus.READY, TargetStatus.FREE)

    @property
    def saw(self) -> TargetStatus:
        """The old name of :attr:`status`; deprecated."""
        warnings.warn("Readiness.saw is now called Readiness.status", DeprecationWarning, stacklevel=2)
        return self.status

    def __str__(self) -> str:
        return f"{self.target}: {self.status.value}" + (f" ({self.detail})" if self.detail else "")


_REASONS = {
    "silent": TargetStatus.SILENT,
    "closed": TargetStatus.CLOSED,
    "echo": TargetStatus.ECHO,
    "protocol": TargetStatus.WRONG_PROTOCOL,
    "not ready": TargetStatus.NOT_READY,
}
_ORDER = tuple(TargetStatus)
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)


def describe_error(error: Exception) -> tuple[TargetStatus, str]:
    """Return the status and the detail of an attempt that ended with ``error``."""
    if isinstance(error, VerifyError):
        if error.reason == "silent" and error.received and not error.detail.startswith("it said nothing"):
            return TargetStatus.INCOMPLETE, error.detail
        # "it said nothing" would repeat "accepted but silent".
        return _REASONS[error.reason], error.detail if error.received or error.reason == "not ready" else ""
    if isinstance(error, AddressesError) and error.errors:
        # Of a name with several addresses, the one that came nearest to the server says most.
        return max(map(describe_error, error.errors), key=lambda described: _ORDER.index(described[0]))
    if isinstance(error, SelfConnectError):
        return TargetStatus.ITSELF, "nobody listens there"
    if isinstance(error, socket.gaierror):
        return TargetStatus.NAME_UNKNOWN, error.strerror or str(error)
    if isinstance(error, UnicodeError):
        return TargetStatus.NAME_UNKNOWN, "it is not a valid host name"
    if isinstance(error, ConnectionRefusedError):
        return TargetStatus.REFUSED, ""
    if isinstance(error, FileNotFoundError):
        return TargetStatus.REFUSED, "the socket file does not exist"
    if isinstance(error, TimeoutError):
        return TargetStatus.NO_ANSWER, ""
    if isinstance(error, ConnectionResetError):
        return TargetStatus.CLOSED, ""
    detail = getattr(error, "strerror", None) or str(error)
    is_unreachable = getattr(error, "errno", None) in _UNREACHABLE
    return (TargetStatus.UNREACHABLE if is_unreachable else TargetStatus.FAILED), detail
