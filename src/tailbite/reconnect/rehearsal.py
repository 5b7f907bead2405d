"""What ``tailbite.testing`` switches: delays that are not waited for, a cap on attempts, a network that is played.

Only ``tailbite.testing`` and the like switch it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tailbite.connect.target import Target
    from tailbite.core.backoff import Policy
    from tailbite.verifiers.verification import Verifier

__all__ = ["Played", "Rehearsal", "delay", "limit", "on_network", "played", "set_testing"]


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


_current = Rehearsal()


class _Switch(contextlib.AbstractContextManager[None]):
    """What was before; ``with`` restores it at the end."""

    def __init__(self, before: Rehearsal) -> None:
        self._before = before

    def __exit__(self, *_: object) -> None:
        global _current
        _current = self._before


def set_testing(testing: bool = True, *, max_attempts: int | None = None) -> contextlib.AbstractContextManager[None]:
    """Remove the delays between attempts, for the whole process, until called with False.

    ::

        tailbite.testing.set_testing()          # in a conftest.py
        with tailbite.testing.set_testing(max_attempts=3): ...      # for a while

    Args:
        testing: False puts everything back.
        max_attempts: how many attempts an outage of any loop that is made from now on may take.
    """
    global _current
    before = _current
    _current = replace(before, no_delays=testing, max_attempts=max_attempts if testing else None)
    return _Switch(before)


@contextlib.contextmanager
def on_network(network: Played) -> Iterator[None]:
    """Have every loop that is made inside use this network."""
    global _current
    before, _current = _current, replace(_current, network=network)
    try:
        yield
    finally:
        _current = replace(_current, network=before.network)


def delay(seconds: float) -> float:
    """Return how long to wait really."""
    return 0.0 if _current.no_delays else seconds


def limit(policy: Policy) -> Policy:
    """Return the policy with the cap on attempts."""
    return policy if _current.max_attempts is None else replace(policy, max_attempts=_current.max_attempts)


def played() -> Played | None:
    """Return the network that new loops are to use instead of the real one."""
    return _current.network
