"""What happens to a persistent connection: the records that hooks get."""

from tailbite.connect.events import (
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
