"""A server that greets, the verifier that knows its greeting, and the names of the events that a loop told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tailbite
from tailbite.verifiers.verification import Conversation, Receive, Send

if TYPE_CHECKING:
    import socket

    from tailbite import events
    from tailbite.connect.target import Target

__all__ = ["Greeted", "greet", "names"]


def greet(sock: socket.socket) -> None:
    sock.sendall(b"hello\n")


def names(seen: list[events.Event]) -> list[str]:
    return [type(event).__name__ for event in seen]


@dataclass(frozen=True)
class Greeted:
    """The server speaks first; its greeting is the caller's."""

    name: str = "greeting"
    timeout: float = 60.0
    spends: bool = False
    sends: bytes = b""
    keeps: int = 0

    def talk(self, target: Target) -> Conversation:
        if self.sends:
            yield Send(self.sends)
        data = b""
        while len(data) < 6:
            more = yield Receive(3)
            if not more:
                raise tailbite.VerifyError("closed", "it closed the connection")
            data += more
        if not data.startswith(b"hello\n"):
            raise tailbite.VerifyError("protocol", f"it says {data!r}")
        return data[self.keeps :]
