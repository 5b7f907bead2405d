"""The base of all verifiers: it collects an answer, however it is fragmented, and refuses the verifier's own echo.

An echo is the answer of a self-connect, an echo server, or a proxy that is connected to itself. It cannot be
distinguished from an answer that begins with the bytes of the question. So as long as the received bytes are the sent
bytes, they are kept from the verifier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from tailbite.errors import VerifyError
from tailbite.verifiers.recognise import describe, quoted, recognise
from tailbite.verifiers.verification import Receive, Send

if TYPE_CHECKING:
    from collections.abc import Generator

    from tailbite.errors import VerifyReason

__all__ = ["Answer", "Part"]

Part: TypeAlias = "Generator[Send | Receive, bytes, None]"
"""A part of a conversation."""

_MOST = 1 << 16
"""The most bytes of an answer: a server that has not identified itself by then speaks another protocol."""


class Answer:
    """The bytes received in one conversation, and those sent before anything but their echo came back.

    Attributes:
        data: the bytes received, once they are known not to be an echo.
        begin: the place in ``data`` at which the answer to the last question begins.

    Args:
        protocol: the expected protocol's name in :func:`recognise`; "" if that does not know it.
    """

    __slots__ = ("_asked", "_held", "_protocol", "begin", "data")

    def __init__(self, protocol: str = "") -> None:
        self.data = b""
        self.begin = 0
        self._protocol = protocol
        self._asked = b""
        self._held = b""

    @property
    def news(self) -> bytes:
        """The answer to the last question so far."""
        return self.data[self.begin :]

    def ask(self, question: bytes, begin: int | None = None) -> Part:
        """Send a question, whose answer begins at ``begin``; if not given, with what comes from now on.

        Raises:
            VerifyError: "closed"; or, if something has come already that explains it, "echo" or "protocol".
        """
        self.begin = len(self.data) if begin is None else begin
        try:
            yield Send(question)
        except ConnectionError:
            raise self._ended("closed", "broke the connection") from None
        if not self.data:
            self._asked += question

    def more(self) -> Part:
        """Wait for bytes that are not an echo.

        Raises:
            VerifyError: "closed", "silent", "echo", or "protocol": another protocol, or no end to it.
        """
        before = len(self.data)
        while len(self.data) == before:
            try:
                chunk = yield Receive()
            except TimeoutError:
                raise self._ended("silent", "said no more") from None
            except ConnectionError:
                raise self._ended("closed", "broke the connection") from None
            if not chunk:
                raise self._ended("closed", "closed the connection")
            if self.data:
                self.data += chunk
                continue
            self._held += chunk
            if self._asked and self._held.startswith(self._asked):
                raise VerifyError("echo", "it sends back what it is sent")
            if not self._asked.startswith(self._held):
                self.data = self._held
        if len(self.data) > _MOST:
            raise VerifyError("protocol", f"{len(self.data)} bytes and no end: {describe(self.data)}")

    def until(self, mark: bytes) -> Part:
        """Wait until ``mark`` is in the answer."""
        while mark not in self.news:
            yield from self.more()

    def at_least(self, size: int) -> Part:
        """Wait until the answer has ``size`` bytes."""
        while len(self.news) < size:
            yield from self.more()

    def wrong(self) -> VerifyError:
        """Return the error that says that the answer is another protocol's, and which it looks like."""
        return VerifyError("protocol", describe(self.data))

    def _ended(self, reason: VerifyReason, what: str) -> VerifyError:
        if self._held and not self.data:
            return VerifyError("echo", f"it sent back what it was sent, and {what}")
        if recognise(self.data) not in (None, self._protocol):
            return self.wrong()
        if not self.data:
            return VerifyError(reason, "it said nothing" if reason == "silent" else f"it {what}")
        if self._protocol == "TLS":
            return VerifyError(reason, f"it {what} in the middle of TLS")
        if reason == "silent":  # or too slow: bytes may still be coming
            return VerifyError(reason, f"it sent only {quoted(self.data)} in time")
        return VerifyError(reason, f"it {what} after {quoted(self.data)}")
