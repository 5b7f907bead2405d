"""The smallest verifier there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.errors import VerifyError
from tailbite.verifiers.verification import Conversation, Receive, Send

if TYPE_CHECKING:
    from tailbite.connect.target import Target

__all__ = ["Ping"]


@dataclass(frozen=True)
class Ping:
    """A tiny protocol: PING is answered by PONG; everything after it is the caller's."""

    name: str = "ping"
    timeout: float = 1.0
    spends: bool = False

    def talk(self, target: Target) -> Conversation:
        yield Send(b"PING\n")
        data = b""
        while len(data) < 5:
            more = yield Receive()
            if not more:
                raise VerifyError("closed", "it closed the connection")
            data += more
        if not data.startswith(b"PONG\n"):
            raise VerifyError("protocol", f"it answers {data[:8]!r}")
        return data[5:]
