"""The events of a persistent connection: the records that hooks are called with."""

from tailbite.reconnect.events import (
    Attempting,
    Connected,
    Event,
    FailedAttempt,
    GaveUp,
    Lost,
    Refused,
    SelfConnected,
    Verified,
    VerifyFailed,
    Waiting,
)

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
