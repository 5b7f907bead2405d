"""Servers without a socket: what they say first, and what they answer; for conversations without I/O."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from tailbite.connect.target import Target
from tailbite.verifiers.verification import Accepted, Send, Verification, Verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Echo", "Peer", "Says", "TLSPeer", "meet"]


class Peer(Protocol):
    def greeting(self) -> bytes: ...
    def answer(self, data: bytes) -> bytes: ...


@dataclass
class Says:
    """Greets, and has one answer ready for each question; silent after them."""

    greets: bytes = b""
    answers: list[bytes] = field(default_factory=list)

    def greeting(self) -> bytes:
        return self.greets

    def answer(self, data: bytes) -> bytes:
        return self.answers.pop(0) if self.answers else b""


@dataclass
class Echo:
    """Sends back what it gets, after a greeting if it has one."""

    greets: bytes = b""

    def greeting(self) -> bytes:
        return self.greets

    def answer(self, data: bytes) -> bytes:
        return data


class TLSPeer:
    """TLS by the standard library, with another peer inside; ``first`` is sent in the clear before it."""

    def __init__(self, pem: Path, inside: Peer, first: bytes = b"", *, wants_certificate: bool = False) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem)
        if wants_certificate:
            context.load_verify_locations(pem)
            context.verify_mode = ssl.CERT_REQUIRED
            context.maximum_version = ssl.TLSVersion.TLSv1_2  # there the refusal comes within the handshake
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._inside = inside
        self._greeted = False
        self._first = first

    def greeting(self) -> bytes:
        return b""

    def answer(self, data: bytes) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        self._in.write(data)
        try:
            self._tls.do_handshake()
            if not self._greeted:
                self._greeted = True
                self._tls.write(self._inside.greeting() or b"")
            while True:
                self._tls.write(self._inside.answer(self._tls.read(65536)))
        except ssl.SSLError:
            pass  # it wants more, or it has put an alert into its output
        return self._out.read()


def meet(
    verifier: Verifier,
    peer: Peer,
    *,
    cut: Callable[[bytes], Iterator[bytes]] = lambda data: iter([data] if data else []),
    then: OSError | None = None,
) -> Verification:
    """Have a conversation; ``cut`` fragments what the peer says, ``then`` is how it ends (None: closed).

    Raises:
        VerifyError: the verifier refuses.
    """
    verification = Verification(verifier, Target("db.example", 4000))
    coming = list(cut(peer.greeting()))
    while not isinstance(verification.wants, Accepted):
        if isinstance(verification.wants, Send):
            coming += cut(peer.answer(verification.wants.data))
            verification.done()
        elif coming:
            chunk = coming.pop(0)
            assert 0 < len(chunk) <= verification.wants.most or chunk
            verification.done(chunk)
        elif then is not None:
            raise verification.failed(then)
        else:
            verification.done(b"")
    return verification
