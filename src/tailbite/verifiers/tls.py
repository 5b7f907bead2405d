"""The verifier for TLS, alone or with another one inside: the standard library's TLS on memory, so no I/O here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tailbite.errors import VerifyError
from tailbite.verifiers.answer import Answer
from tailbite.verifiers.recognise import quoted, recognise
from tailbite.verifiers.verification import Send, check_timeout, checked_verifier

if TYPE_CHECKING:
    import ssl
    from collections.abc import Generator

    from tailbite.connect.target import Target
    from tailbite.verifiers.answer import Part
    from tailbite.verifiers.verification import Conversation, Receive, Verifier

__all__ = ["TLS", "Channel"]

# RFC 8446: content types (section 5.1), a handshake type (section 4), and the alerts of servers that want a
# certificate of the client, as OpenSSL names them.
_ALERT, _HANDSHAKE, _SERVER_HELLO = b"\x15", b"\x16", b"\x02"
_LACKS_OURS = ("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "HANDSHAKE_FAILURE")


@dataclass(frozen=True)
class TLS:
    """TLS: the handshake completes (and inside it, another verifier accepts, if there is one).

    The certificate is not checked unless you pass a context that does: this asks whether a TLS server is there, and
    leaves trust to the connection that is made for use. A server that wants a certificate of the client is believed.
    The connection is spent. For a connection that is to *be* TLS, use ``ssl=`` and not this.

    Attributes:
        inside: the verifier that talks inside the TLS session; None for the handshake alone.
        context: the context of the handshake; None for one that checks no certificate.
        server_hostname: the name that the handshake asks for (SNI); None for the host of the target.
        timeout: seconds for the whole conversation.
        spends: True: the caller gets a second connection.
    """

    inside: Verifier | None = None
    context: ssl.SSLContext | None = None
    server_hostname: str | None = None
    timeout: float = 5.0
    spends: bool = True

    def __post_init__(self) -> None:
        check_timeout(self.timeout)
        checked_verifier(self.inside)

    @property
    def name(self) -> str:
        """The name of the protocol: "tls", or "redis over tls"."""
        return f"{self.inside.name} over tls" if self.inside else "tls"

    def __call__(
        self,
        inside: Verifier | None = None,
        *,
        context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> TLS:
        """Return a verifier with another protocol inside, a context, a name to ask for, or another timeout."""
        wanted = self.timeout if timeout is None else timeout
        return replace(self, inside=inside, context=context, server_hostname=server_hostname, timeout=wanted)

    def talk(self, target: Target) -> Conversation:
        """See :class:`tailbite.verify.Verifier`."""
        answer = Answer("TLS")
        channel = Channel(answer, self.context, self.server_hostname or target.host)
        yield from channel.handshake()
        if self.inside is not None:
            yield from channel.carry(self.inside.talk(target))
        return b""


class Channel:
    """A TLS session on top of a conversation.

    Args:
        answer: the conversation it runs in.
        context: None makes one that takes every certificate.
        host: the name to ask for (SNI), and to check if the context checks names.
        begin: where in the answer's data the session begins.
    """

    def __init__(self, answer: Answer, context: ssl.SSLContext | None, host: str, begin: int = 0) -> None:
        import ssl  # 10 ms that nobody else here needs

        if context is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without loading the system's certificates: 30 ms
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self._ssl = ssl
        self._answer = answer
        self._begin = self._given = begin
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if "/" in host or host.startswith("\0") else host.partition("%")[0]
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name or None)

    def handshake(self) -> Part:
        """Do the handshake.

        Raises:
            VerifyError: the peer does not speak TLS, or its certificate is not trusted.
        """
        while True:
            try:
                self._tls.do_handshake()
            except self._ssl.SSLWantReadError:
                yield from self._fill()
            except self._ssl.SSLCertVerificationError as error:
                raise VerifyError("not ready", f"its certificate is not trusted: {error.verify_message}") from error
            except self._ssl.SSLError as error:
                if self._wants_our_certificate(error):
                    return
                raise self._failed(error) from error
            else:
                yield from self._flush()
                return

    def carry(self, talk: Conversation) -> Part:
        """Hold a conversation inside this session.

        Raises:
            VerifyError: it refuses, or the session breaks.
        """
        try:
            wants = next(talk)
            while True:
                if isinstance(wants, Send):
                    self._tls.write(wants.data)
                    yield from self._flush()
                    wants = talk.send(b"")
                    continue
                try:
                    data = yield from self._read(wants.most)
                except VerifyError as error:
                    if error.reason == "silent":  # the conversation inside knows better what it waits for
                        wants = talk.throw(TimeoutError())
                    elif error.reason == "closed":
                        wants = talk.send(b"")
                    else:
                        raise
                else:
                    wants = talk.send(data)
        except StopIteration:
            return

    def _read(self, most: int) -> Generator[Send | Receive, bytes, bytes]:
        while True:
            try:
                return self._tls.read(most)
            except self._ssl.SSLWantReadError:
                yield from self._fill()
            except self._ssl.SSLZeroReturnError:  # the peer's close_notify
                return b""
            except self._ssl.SSLError as error:
                raise self._failed(error) from error

    def _fill(self) -> Part:
        yield from self._flush()
        if self._given == len(self._answer.data):
            yield from self._answer.more()
        if self._answer.news[:1] not in (_ALERT, _HANDSHAKE):
            raise self._not_tls()
        self._in.write(self._answer.data[self._given :])
        self._given = len(self._answer.data)

    def _flush(self) -> Part:
        if self._out.pending:
            yield from self._answer.ask(self._out.read(), self._begin)

    def _wants_our_certificate(self, error: ssl.SSLError) -> bool:
        """An alert after the ServerHello, about a certificate we do not have: that is a TLS server, and ready."""
        news = self._answer.news
        return news[:1] == _HANDSHAKE and news[5:6] == _SERVER_HELLO and (error.reason or "").endswith(_LACKS_OURS)

    def _not_tls(self) -> VerifyError:
        if recognise(self._answer.news) in ("HTTP", "HTTP without a status line"):
            return VerifyError("protocol", f"plain HTTP, no TLS: {quoted(self._answer.news)}")
        return self._answer.wrong()

    def _failed(self, error: ssl.SSLError) -> VerifyError:
        if self._answer.news[1:2] != b"\x03":
            return self._not_tls()
        words = (error.reason or str(error)).lower().replace("_", " ")
        return VerifyError("protocol", f"the TLS handshake failed: {words}")
