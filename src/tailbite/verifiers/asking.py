"""Verifiers that ask a question and leave the stream as clean as it was: Redis, and any question and answer."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tailbite.errors import VerifyError
from tailbite.verifiers.answer import Answer
from tailbite.verifiers.listening import check_expected, matched
from tailbite.verifiers.recognise import printed
from tailbite.verifiers.verification import check_timeout

if TYPE_CHECKING:
    from collections.abc import Generator

    from tailbite.connect.target import Target
    from tailbite.verifiers.verification import Conversation, Receive, Send

__all__ = ["Redis", "SendExpect"]

_PING = b"*1\r\n$4\r\nPING\r\n"
_WANTS_LOGIN = (b"-NOAUTH ", b"-NOPERM ", b"-ERR operation not permitted")
"""Errors of a server that is ready, and wants a password first: Redis 2.6 and newer, users without +ping, older."""

_HAS_NO_PASSWORD = (b"-ERR Client sent AUTH, but no password is set", b"-ERR AUTH <password> called without any")
"""Errors of a server that wants no password: Redis before 6, and since."""


@dataclass(frozen=True)
class Redis:
    """Redis, Valkey, KeyDB and relatives: PING is answered by +PONG, or by an error that asks for a login.

    LOADING (the data set is being read), MASTERDOWN, MISCONF, BUSY and DENIED (protected mode) say "not ready".
    The answer is taken from the stream, whole, and the server waits for the next command. With a password the
    connection is logged in first (AUTH); a password that the server refuses is "not ready" as well.

    Attributes:
        timeout: seconds for the whole conversation.
        user: the user to log in as; "" for the default user.
        password: the password; None does not log in.
    """

    timeout: float = 5.0
    name: str = "redis"
    spends: bool = False
    user: str = ""
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_timeout(self.timeout)

    def __call__(self, *, timeout: float) -> Redis:
        """Return this verifier with another timeout, in seconds."""
        return replace(self, timeout=timeout)

    def talk(self, target: Target) -> Conversation:
        """See :class:`tailbite.verify.Verifier`."""
        answer = Answer("Redis")
        if self.password is not None:
            words = ["AUTH", self.user, self.password] if self.user else ["AUTH", self.password]
            yield from answer.ask(_command(*words))
            line = yield from _line(answer, b"+OK")
            if line.startswith(b"-") and not line.startswith(_HAS_NO_PASSWORD):
                raise VerifyError("not ready", printed(line[1:]))
        yield from answer.ask(_PING)
        line = yield from _line(answer, b"+PONG")
        if line.startswith(b"-") and (self.password is not None or not line.startswith(_WANTS_LOGIN)):
            raise VerifyError("not ready", printed(line[1:]))
        return answer.news[len(line) + 2 :]


def _command(*words: str) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        parts.append(f"${len(word.encode())}\r\n{word}\r\n".encode())
    return b"".join(parts)


def _line(answer: Answer, good: bytes) -> Generator[Send | Receive, bytes, bytes]:
    """Return the line that answers the last command: ``good``, or an error."""
    good += b"\r\n"
    while True:
        yield from answer.more()
        line, end, _ = answer.news.partition(b"\r\n")
        if not good.startswith(line + end) and not _ERROR.match(line):
            raise answer.wrong()
        if end:
            return line


_ERROR = re.compile(rb"-[A-Z]*( [^\r\n]*)?\r?\Z")


@dataclass(frozen=True)
class SendExpect:
    """Any protocol: ``send`` is answered by something that begins with ``expect``.

    ``expect`` is bytes, or a compiled pattern of bytes, which is tried with ``match`` on what has come so far: end
    it with what ends the answer, or it will match too early. What matched is taken from the stream; what follows
    it is the caller's.

    Raises:
        ValueError: the answer could not be distinguished from an echo: ``send`` begins with ``expect`` or the other
            way round, or one of them is empty.
    """

    send: bytes
    expect: bytes | re.Pattern[bytes]
    timeout: float = 5.0
    name: str = "send-expect"
    spends: bool = False

    def __post_init__(self) -> None:
        check_timeout(self.timeout)
        check_expected(self.expect)
        if not isinstance(self.send, bytes):
            raise TypeError(f"{self.send!r} must be bytes")
        if not self.send:
            raise ValueError("there is nothing to send; for a server that speaks first there is banner()")
        if isinstance(self.expect, bytes) and (
            self.send.startswith(self.expect) or self.expect.startswith(self.send)
        ):
            raise ValueError(f"an echo of {self.send!r} could not be distinguished from the answer {self.expect!r}")

    def talk(self, target: Target) -> Conversation:
        """See :class:`tailbite.verify.Verifier`."""
        answer = Answer()
        yield from answer.ask(self.send)
        while True:
            yield from answer.more()
            if (end := matched(self.expect, answer)) is not None:
                return answer.data[end:]
