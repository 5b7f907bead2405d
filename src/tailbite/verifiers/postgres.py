"""PostgreSQL: it answers an SSLRequest, and takes a StartupMessage.

The first question alone is not enough. Its answer is one byte, and an SSH server, which says "SSH-2.0-..." to every
client, begins with "S" as well. It also does not tell whether the database is up: while the database recovers, the
postmaster answers SSLRequests, and refuses logins (SQLSTATE 57P03). So the verifier continues as pg_isready does:
with TLS if the server offers it, and a StartupMessage, whose answer is a request to log in or an error. It does not
log in.

Messages: PostgreSQL documentation, "Message Formats" and "SSL Session Encryption" (protocol 3.0).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tailbite.errors import VerifyError
from tailbite.verifiers.answer import Answer
from tailbite.verifiers.recognise import printed
from tailbite.verifiers.verification import check_timeout

if TYPE_CHECKING:
    from collections.abc import Generator

    from tailbite.connect.target import Target
    from tailbite.verifiers.answer import Part
    from tailbite.verifiers.verification import Conversation, Receive, Send

__all__ = ["Postgres"]

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_PROTOCOL_3 = 196608
_MD5, _SASL = 5, 10  # kinds of AuthenticationRequest
_CANNOT_CONNECT_NOW = "57P03"
"""The database is starting up, shutting down or recovering; PostgreSQL documentation, appendix A."""


@dataclass(frozen=True)
class Postgres:
    """PostgreSQL (and PgBouncer and others that speak its protocol): ready to take a login.

    An error is the right server too (no such user or database, no place left), except for "the database system is
    starting up" and its like: that is "not ready". With a password a login is tried (SCRAM-SHA-256 or MD5, whichever
    the server asks for), and a refused one is "not ready" too; without a password nobody is logged in, unless the
    server trusts ``user``. The session ends at once. The connection is spent.

    Attributes:
        user: the user to log in as.
        database: the database to log in to.
        password: the password; None tries no login.
        timeout: seconds for the whole conversation.
    """

    user: str = "postgres"
    database: str = "postgres"
    timeout: float = 5.0
    name: str = "postgres"
    spends: bool = True
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_timeout(self.timeout)
        if not self.user or "\0" in self.user + self.database:
            raise ValueError("user and database must be names: not empty, and without NUL")

    def __call__(
        self,
        *,
        user: str | None = None,
        database: str | None = None,
        password: str | None = None,
        timeout: float | None = None,
    ) -> Postgres:
        """Return this verifier with another user, database, password or timeout (seconds)."""
        given = {"user": user, "database": database, "password": password, "timeout": timeout}
        return replace(self, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]

    def talk(self, target: Target) -> Conversation:
        """See :class:`tailbite.verify.Verifier`."""
        answer = Answer("PostgreSQL")
        yield from answer.ask(_SSL_REQUEST)
        yield from answer.more()
        if answer.data[:1] == b"S":
            if len(answer.data) > 1:  # more than was asked for: nobody speaks TLS before the client does
                raise answer.wrong()
            from tailbite.verifiers.tls import Channel

            channel = Channel(answer, None, target.host, begin=1)
            yield from channel.handshake()
            yield from channel.carry(self._start(Answer("PostgreSQL")))
        elif answer.data[:1] == b"N":
            yield from self._start(answer, begin=1)
        elif answer.data[:1] == b"E":
            yield from _request_to_log_in(answer)
        else:
            raise answer.wrong()
        return b""

    def _start(self, answer: Answer, begin: int = 0) -> Conversation:
        parameters = b"".join(
            f"{key}\0{value}\0".encode()
            for key, value in (("user", self.user), ("database", self.database), ("application_name", "tailbite"))
        )
        body = struct.pack("!i", _PROTOCOL_3) + parameters + b"\0"
        yield from answer.ask(struct.pack("!i", len(body) + 4) + body, begin)
        request = yield from _request_to_log_in(answer)
        if request and self.password is not None:
            yield from self._log_in(answer, request)
        return b""

    def _log_in(self, answer: Answer, request: bytes) -> Part:
        """Answer a request to log in (PostgreSQL documentation, "Message Flow", "Start-up")."""
        from tailbite.verifiers.postgres_login import MECHANISM, Scram, md5_response

        assert self.password is not None
        kind, details = struct.unpack("!i", request[:4])[0], request[4:]
        if kind == _MD5:
            yield from _ask_password(answer, md5_response(self.user, self.password, details))
        elif kind == _SASL and MECHANISM in details.split(b"\0"):
            scram = Scram(self.password)
            first = MECHANISM + b"\0" + struct.pack("!i", len(scram.first)) + scram.first
            reply = yield from _ask_password(answer, first)
            try:
                proof = scram.final(reply[4:])
            except ValueError:
                raise answer.wrong() from None
            reply = yield from _ask_password(answer, proof)
            if not scram.is_from_server(reply[4:]):
                raise VerifyError("protocol", "the server does not know the password")
        elif kind != 0:
            raise VerifyError("not ready", "it asks for a kind of login that is not supported here")


def _ask_password(answer: Answer, message: bytes) -> Generator[Send | Receive, bytes, bytes]:
    """Send a password message, and return the server's next request; b"" is success."""
    yield from answer.ask(b"p" + struct.pack("!i", len(message) + 4) + message)
    return (yield from _request_to_log_in(answer, is_logging_in=True))


def _request_to_log_in(answer: Answer, *, is_logging_in: bool = False) -> Generator[Send | Receive, bytes, bytes]:
    """Return a request to log in; accept every error but those that say "not now", or refuse the login."""
    yield from answer.at_least(1)
    kind = answer.news[:1]
    if kind not in (b"R", b"E"):
        raise answer.wrong()
    yield from answer.at_least(5)
    (size,) = struct.unpack("!i", answer.news[1:5])
    if not 8 <= size <= 30_000:  # a request to log in has at least its kind; libpq's own limit for errors
        raise answer.wrong()
    yield from answer.at_least(1 + size)
    body = answer.news[5 : 1 + size]
    if kind == b"R":
        return body
    fields = {field[:1]: printed(field[1:]) for field in body.split(b"\0") if field}
    if b"C" not in fields or b"M" not in fields:
        raise answer.wrong()
    if is_logging_in or fields[b"C"] == _CANNOT_CONNECT_NOW:
        raise VerifyError("not ready", fields[b"M"])
    return b""
