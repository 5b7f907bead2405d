"""Verifiers that only listen: the server speaks first, and its greeting is left for the caller to read.

A self-connect or an echo server sends nothing back to a verifier that sends nothing: it is found silent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tailbite.errors import VerifyError
from tailbite.verifiers.answer import Answer
from tailbite.verifiers.recognise import printed, quoted, recognise
from tailbite.verifiers.verification import check_timeout

if TYPE_CHECKING:
    from tailbite.connect.target import Target
    from tailbite.verifiers.verification import Conversation

__all__ = ["SMTP", "SSH", "Banner", "MySQL", "check_expected", "matched"]


@dataclass(frozen=True)
class MySQL:
    """MySQL and MariaDB: the first packet is a greeting of protocol version 10 (since MySQL 3.21).

    An error packet in its place (too many connections, this host is not allowed or blocked) is the right server,
    which is not ready for this client. Nothing is taken from the stream.

    The server counts a connection that ends before the login as an error of this host, and blocks a host after
    ``max_connect_errors`` (100) of them in a row: so log in on the verified connection, as ``connections`` lets you.
    """

    timeout: float = 5.0
    name: str = "mysql"
    spends: bool = False

    def __post_init__(self) -> None:
        check_timeout(self.timeout)

    def __call__(self, *, timeout: float) -> MySQL:
        """Return this verifier with another timeout, in seconds."""
        return replace(self, timeout=timeout)

    def talk(self, target: Target) -> Conversation:
        """See :class:`tailbite.verify.Verifier`."""
        answer = Answer("MySQL")
        yield from answer.at_least(5)
        size, number, kind = int.from_bytes(answer.data[:3], "little"), answer.data[3], answer.data[4]
        if number != 0 or kind not in (10, 0xFF) or not 4 <= size <= 2048:
            raise answer.wrong()
        yield from answer.at_least(4 + size)
        packet = answer.data[4 : 4 + size]
        if kind == 0xFF:
            text = packet[9:] if packet[3:4] == b"#" else packet[3:]  # older servers leave out "#" and the SQLSTATE
            raise VerifyError("not ready", f"error {int.from_bytes(packet[1:3], 'little')}: {printed(text)}")
        version, end, rest = packet[1:].partition(b"\0")
        if not version.isascii() or not version[:1].isdigit() or not end or len(rest) < 13:
            raise answer.wrong()
        return answer.data


@dataclass(frozen=True)
class SSH:
    """SSH: the identification string ``SSH-2.0-...`` (RFC 4253 section 4.2), after other lines if there are any.

    Nothing is taken from the stream.
    """

    timeout: float = 5.0
    name: str = "ssh"
    spends: bool = False

    def __post_init__(self) -> None:
        check_timeout(self.timeout)

    def __call__(self, *, timeout: float) -> SSH:
        """Return this verifier with another timeout, in seconds."""
        return replace(self, timeout=timeout)

    def talk(self, target: Target) -> Conversation:
        """See :class:`tailbite.verify.Verifier`."""
        answer = Answer("SSH")
        while True:
            yield from answer.more()
            if recognise(answer.data) not in ("SSH", None):
                raise answer.wrong()
            for line in answer.data.split(b"\n")[:-1]:
                if line.startswith((b"SSH-2.0-", b"SSH-1.99-")):
                    return answer.data
                if line.startswith((b"SSH-", b"Exceeded MaxStartups", b"Not allowed at this time")):
                    # OpenSSH's words in place of its identification when it has no place for another client.
                    raise VerifyError("protocol" if line.startswith(b"SSH-") else "not ready", printed(line))


@dataclass(frozen=True)
class SMTP:
    """SMTP: the greeting ``220`` (RFC 5321 section 3.1), all of its lines; 421 and 554 say "not ready".

    Nothing is taken from the stream.
    """

    timeout: float = 5.0
    name: str = "smtp"
    spends: bool = False

    def __post_init__(self) -> None:
        check_timeout(self.timeout)

    def __call__(self, *, timeout: float) -> SMTP:
        """Return this verifier with another timeout, in seconds; RFC 5321 section 4.5.3.2 grants it 5 minutes."""
        return replace(self, timeout=timeout)

    def talk(self, target: Target) -> Conversation:
        """See :class:`tailbite.verify.Verifier`."""
        answer = Answer("SMTP")
        while True:
            yield from answer.more()
            lines = answer.data.split(b"\n")
            for line in lines[:-1]:
                if (found := _REPLY.match(line)) is None or recognise(answer.data) != "SMTP":
                    raise answer.wrong()
                if found[1] != b"220":
                    raise VerifyError("not ready", printed(line))
                if found[2] != b"-":
                    return answer.data
            if not any(code.startswith(answer.data[:3]) for code in (b"220", b"421", b"554")):
                raise answer.wrong()


_REPLY = re.compile(rb"(220|421|554)([ -]|\r?\Z)")


@dataclass(frozen=True)
class Banner:
    """Any server that speaks first: its greeting begins with ``expected``, bytes or a compiled pattern of bytes.

    A pattern is tried with ``match`` on what has come so far, whenever something comes. Nothing is taken from the
    stream.

    Raises:
        ValueError: ``expected`` matches the empty string: it would accept every server that sends anything.
    """

    expected: bytes | re.Pattern[bytes]
    timeout: float = 5.0
    name: str = "banner"
    spends: bool = False

    def __post_init__(self) -> None:
        check_timeout(self.timeout)
        check_expected(self.expected)

    def talk(self, target: Target) -> Conversation:
        """See :class:`tailbite.verify.Verifier`."""
        answer = Answer()
        while True:
            yield from answer.more()
            if matched(self.expected, answer) is not None:
                return answer.data


def check_expected(expected: bytes | re.Pattern[bytes]) -> None:
    """Refuse an expectation that every answer would match.

    Raises:
        TypeError: neither bytes nor a pattern of bytes.
        ValueError: empty, or a pattern that matches b"".
    """
    pattern = expected.pattern if isinstance(expected, re.Pattern) else expected
    if not isinstance(pattern, bytes):
        raise TypeError(f"{pattern!r} must be bytes, or a pattern compiled from bytes")
    if not pattern or (isinstance(expected, re.Pattern) and expected.match(b"")):
        raise ValueError(f"{pattern!r} matches an answer of no bytes, so it would accept every server")


def matched(expected: bytes | re.Pattern[bytes], answer: Answer) -> int | None:
    """Return where in the answer to the last question the match ends, or None if it needs more bytes.

    Raises:
        VerifyError: the answer begins with other bytes.
    """
    if isinstance(expected, re.Pattern):
        found = expected.match(answer.news)
        return found.end() if found else None
    if answer.news.startswith(expected):
        return len(expected)
    if expected.startswith(answer.news):
        return None
    raise VerifyError("protocol", f"{answer.wrong().detail}, and not {quoted(expected)}")
