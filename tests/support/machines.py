"""A reconnecting state machine with the simplest settings."""

from __future__ import annotations

from dataclasses import dataclass

from tailbite.connect.target import Target
from tailbite.core.backoff import Backoff, Policy
from tailbite.reconnect.machine import Machine, Settings
from tailbite.verifiers.verification import Conversation, Receive

TARGET = Target("db", 5432)
REFUSED = ConnectionRefusedError(111, "Connection refused")
NO_JITTER = Backoff(1, 8, 2, draw=lambda: 1.0)


@dataclass(frozen=True)
class Anything:
    name: str = "anything"
    timeout: float = 3.0
    spends: bool = False

    def talk(self, target: Target) -> Conversation:
        return (yield Receive())


def machine(later: Policy | None = None, first: Policy | None = None, **more: object) -> Machine:
    later = later or Policy(NO_JITTER)
    return Machine(Settings(TARGET, first=first or later, later=later, **more))  # type: ignore[arg-type]
