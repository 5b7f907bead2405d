"""What ``tailbite.testing`` switches: delays that are not waited for, a cap on attempts, a network that is played.

The library reads this module, and only ``tailbite.testing`` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket

    from tailbite.connect.target import Target
    from tailbite.connect.verifying import Verifier
    from tailbite.core.backoff import Policy

__all__ = ["Played", "Rehearsal", "current", "delay", "limit", "played"]


class Played(Protocol):
    """A network that is played from a script, on a clock of its own. Nothing in it waits."""

    def now(self) -> float:
        """Return the played time."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...

    def open(self, target: Target, timeout: float) -> tuple[socket.socket, str, str]:
        """Return a connected socket, and its two ends as text."""
        ...

    def verify(self, sock: socket.socket, verifier: Verifier, target: Target, timeout: float) -> None:
        """Carry out a verifier's conversation, and leave the user's bytes in the socket."""
        ...


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What is switched, for the whole process."""

    no_delays: bool = False
    max_attempts: int | None = None
    network: Played | None = None


current = Rehearsal()


def delay(seconds: float) -> float:
    """Return how long to wait really."""
    return 0.0 if current.no_delays else seconds


def limit(policy: Policy) -> Policy:
    """Return the policy with the cap on attempts."""
    return policy if current.max_attempts is None else replace(policy, max_attempts=current.max_attempts)


def played() -> Played | None:
    """Return the network that new loops are to use instead of the real one."""
    return current.network
