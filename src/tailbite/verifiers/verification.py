"""The seam between verifiers and shells: a conversation without I/O.

A connection that was accepted is not yet the server: it may be another program on that port, a proxy without a
backend, or, through something tailbite does not guard, an echo. A *verifier* talks with the peer first, and only
then is the connection delivered. It does no I/O: it is a generator that asks for bytes, so the same one runs
in every shell, and in a test without a socket. :class:`Verifier` has an example.

A generator returns a tail of the bytes it received: those that belong to the caller, who gets them from the stream
as if nobody had read them. Each shell has its own way:

- blocking, plain socket: the verifier's bytes are only peeked at (MSG_PEEK), and those it keeps are taken out of
  the socket at the end, so the caller has an ordinary socket with nothing missing;
- blocking, TLS: there is no peeking into TLS; the ``SSLSocket`` hands out the returned bytes first;
- asyncio: the returned bytes are the first the caller's ``StreamReader`` is fed with;
- anyio: the returned bytes are what the stream's ``receive`` returns first.

Where a conversation cannot be undone (after its SSLRequest a PostgreSQL server waits for a TLS handshake), the
verifier says ``spends = True``: the shell closes that connection and opens a second one for the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from tailbite.core.duration import checked_seconds
from tailbite.errors import VerifyError

if TYPE_CHECKING:
    from collections.abc import Generator

    from tailbite.connect.target import Target

__all__ = [
    "Accepted",
    "Conversation",
    "Receive",
    "Send",
    "Verification",
    "Verifier",
    "check_timeout",
    "checked_verifier",
]


@dataclass(frozen=True, slots=True)
class Send:
    """Send all of ``data``; the generator is resumed with ``b""``."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait for bytes; the generator is resumed with 1 to ``most`` bytes, or with ``b""`` at the end of the stream.

    Attributes:
        most: the largest number of bytes.
    """

    most: int = 4096


Conversation: TypeAlias = "Generator[Send | Receive, bytes, bytes]"
"""The result of ``talk``: a generator of requests, resumed with bytes, that returns the caller's bytes."""


@runtime_checkable
class Verifier(Protocol):
    """A test that distinguishes the expected server from every other program that accepts connections.

    It holds no state of a connection (``talk`` does), so one object serves any number of them. A verifier of your own
    is a class with these four names, whose ``talk`` is a generator. It yields ``Send(data)`` and ``Receive()`` of
    :mod:`tailbite.verify`, and returns those of the received bytes that belong to the caller::

        class Greeting:
            name, timeout, spends = "greeting", 5.0, False

            def talk(self, target):
                data = b""
                while b"\\n" not in data:
                    more = yield Receive()
                    if not more:
                        raise VerifyError("closed", "it closed the connection before its greeting")
                    data += more
                if not data.startswith(b"hello"):
                    raise VerifyError("protocol", f"it greets with {data[:20]!r} and not with hello")
                return data  # the greeting is the caller's to read
    """

    @property
    def name(self) -> str:
        """The protocol in a word: "redis". The name appears in errors, events and metrics."""
        ...

    @property
    def timeout(self) -> float:
        """Seconds the whole conversation may take."""
        ...

    @property
    def spends(self) -> bool:
        """True if the connection is of no use after the conversation, so the caller needs another."""
        ...

    def talk(self, target: Target) -> Conversation:
        """Start a conversation with a server.

        Args:
            target: the server, for protocols that name it, such as HTTP.

        Raises:
            VerifyError: (from the generator) the peer is not that server, or not yet.
        """
        ...


def checked_verifier(verifier: object) -> Verifier | None:
    """Return ``verifier`` if it is one, or None.

    Raises:
        TypeError: it is not a verifier.
    """
    if verifier is None or (isinstance(verifier, Verifier) and not isinstance(verifier, type)):
        return verifier
    hint = f"; call it: {verifier.__name__}(...)" if isinstance(verifier, type) else ""
    raise TypeError(f"verify must be a verifier, such as tailbite.verify.redis, not {verifier!r}{hint}")


def check_timeout(seconds: object) -> None:
    """Check the timeout of a verifier.

    Raises:
        TypeError, ValueError: it is not a number of seconds above 0.
    """
    if not checked_seconds("timeout", seconds) > 0:
        raise ValueError(f"timeout must be more than 0 seconds, not {seconds}")


@dataclass(frozen=True, slots=True)
class Accepted:
    """The peer is accepted.

    Attributes:
        unread: bytes the peer has sent that belong to the caller; the tail of all that was received.
    """

    unread: bytes = b""


class Verification:
    """One conversation under way. A shell does what :attr:`wants` says and reports with :meth:`done`, until Accepted.

    Attributes:
        wants: the next request: :class:`Send`, :class:`Receive`, or :class:`Accepted` at the end.
        received: all bytes so far.
        sent: all bytes so far.

    Raises:
        VerifyError: the peer is refused; names verifier and target. The connection is the shell's to close.
    """

    __slots__ = ("_talk", "_target", "_verifier", "received", "sent", "wants")

    def __init__(self, verifier: Verifier, target: Target) -> None:
        self.received = bytearray()
        self.sent = bytearray()
        self._verifier = verifier
        self._target = target
        self._talk = verifier.talk(target)
        self.wants: Send | Receive | Accepted = Accepted()
        self._resume(None)

    @property
    def consumed(self) -> int:
        """The number of received bytes that were the verifier's own; known once it has accepted."""
        return len(self.received) - len(self.wants.unread) if isinstance(self.wants, Accepted) else 0

    def done(self, data: bytes = b"") -> None:
        """Report that the last request is done, with the bytes received (``b""``: end of stream)."""
        if isinstance(self.wants, Send):
            self.sent += self.wants.data
        self.received += data
        self._resume(data)

    def failed(self, error: OSError) -> VerifyError:
        """Return the error that says that the connection broke; also for time that ran out (TimeoutError).

        The generator gets ``error`` raised at its ``yield``, and may raise a VerifyError that says more.
        """
        try:
            self._talk.throw(error)
        except VerifyError as refusal:
            return self._error(refusal.reason, refusal.detail)
        except (OSError, StopIteration):
            pass
        self._talk.close()
        if isinstance(error, TimeoutError):
            seconds = f"{self._verifier.timeout:g} s"
            what = f"after {len(self.received)} bytes it said no more" if self.received else "it said nothing"
            return self._error("silent", f"{what} for {seconds}")
        return self._error("closed", f"the connection broke: {error.strerror or error}")

    def _resume(self, data: bytes | None) -> None:
        try:
            self.wants = next(self._talk) if data is None else self._talk.send(data)
        except StopIteration as stop:
            unread = bytes(stop.value or b"")
            if not self.received.endswith(unread):
                raise TypeError(
                    f"verifier {self._verifier.name!r} returned bytes that are not the last ones received"
                ) from None
            self.wants = Accepted(unread)
        except VerifyError as error:
            # Whatever a verifier makes of its own words: that they came back is the most useful thing to say.
            echoed = bool(self.sent) and bool(self.received) and self.sent.startswith(self.received)
            reason = "echo" if echoed else error.reason
            detail = "it sends back what it is sent" if echoed and error.reason != "echo" else error.detail
            raise self._error(reason, detail) from error.__cause__

    def _error(self, reason: object, detail: str) -> VerifyError:
        return VerifyError(
            reason,  # type: ignore[arg-type]
            detail,
            verifier=self._verifier.name,
            target=str(self._target),
            received=bytes(self.received),
        )
