"""The switches of ``tailbite.testing``: delays that are skipped, a cap on attempts, a network that follows a script.

Only ``tailbite.testing`` and modules like it turn them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.core.backoff import Policy
    from tailbite.reconnect.network import ScriptedNetwork

__all__ = ["Rehearsal", "delay", "limit", "network", "on_network", "set_testing"]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The position of every switch, for the whole process."""

    no_delays: bool = False
    max_attempts: int | None = None
    network: ScriptedNetwork | None = None


_current = Rehearsal()


class _Switch(contextlib.AbstractContextManager[None]):
    """The positions before; ``with`` restores them at the end."""

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
        max_attempts: the number of attempts an outage may have, of any loop that is made from now on.
    """
    global _current
    before = _current
    _current = replace(before, no_delays=testing, max_attempts=max_attempts if testing else None)
    return _Switch(before)


@contextlib.contextmanager
def on_network(scripted: ScriptedNetwork) -> Iterator[None]:
    """Give this network to every loop that is made inside."""
    global _current
    before, _current = _current, replace(_current, network=scripted)
    try:
        yield
    finally:
        _current = replace(_current, network=before.network)


def delay(seconds: float) -> float:
    """Return the seconds to wait really."""
    return 0.0 if _current.no_delays else seconds


def limit(policy: Policy) -> Policy:
    """Return the policy with the cap on attempts."""
    return policy if _current.max_attempts is None else replace(policy, max_attempts=_current.max_attempts)


def network() -> ScriptedNetwork | None:
    """Return the network that new loops are given instead of the real one."""
    return _current.network
