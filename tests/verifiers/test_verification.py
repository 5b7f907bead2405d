"""The verifiers' seam: a conversation that any shell can hold, and that swallows nothing."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.ping import Ping
from tailbite.connect.target import Target
from tailbite.errors import VerifyError
from tailbite.verifiers.verification import Accepted, Conversation, Receive, Send, Verification, Verifier

HERE = Target("db", 4000)


def converse(verifier: Verifier, *chunks: bytes) -> Verification:
    """Do as a shell does, with bytes that have arrived already."""
    verification = Verification(verifier, HERE)
    waiting = list(chunks)
    while not isinstance(verification.wants, Accepted):
        if isinstance(verification.wants, Send):
            verification.done()
        else:
            verification.done(waiting.pop(0) if waiting else b"")
    return verification


@given(st.binary(max_size=20), st.data())
def test_the_callers_bytes_survive_any_fragmentation(extra: bytes, data: st.DataObject) -> None:
    stream, chunks = b"PONG\n" + extra, []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        chunks.append(stream[:cut])
        stream = stream[cut:]
    verification = converse(Ping(), *chunks)
    assert isinstance(verification.wants, Accepted)
    assert verification.consumed == 5
    assert verification.received[verification.consumed :] == verification.wants.unread
    assert extra.startswith(verification.wants.unread)
    assert verification.sent == b"PING\n"


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [((b"HELLO",), "protocol"), ((), "closed"), ((b"PO",), "closed"), ((b"PING\n",), "echo"), ((b"PI",), "echo")],
)
def test_a_refusal_names_who_was_asked_for_and_where(chunks: tuple[bytes, ...], reason: str) -> None:
    with pytest.raises(VerifyError, match="db:4000 is not a ping server: ") as refused:
        converse(Ping(), *chunks)
    assert refused.value.reason == reason
    assert refused.value.received == b"".join(chunks)
    copy = pickle.loads(pickle.dumps(refused.value))
    assert (str(copy), copy.reason, copy.received) == (str(refused.value), reason, refused.value.received)


def test_silence_and_a_broken_connection_are_refusals_too() -> None:
    silent = Verification(Ping(), HERE).failed(TimeoutError())
    assert (silent.reason, silent.detail) == ("silent", "it said nothing for 1 s")
    broken = Verification(Ping(), HERE).failed(ConnectionResetError(104, "Connection reset by peer"))
    assert (broken.reason, broken.detail) == ("closed", "the connection broke: Connection reset by peer")


def test_a_verifier_that_returns_what_never_came_is_told_so() -> None:
    class Liar(Ping):
        def talk(self, target: Target) -> Conversation:
            yield Receive()
            return b"never sent"

    with pytest.raises(TypeError, match="not the last ones received"):
        converse(Liar(), b"x")


@pytest.mark.parametrize(
    ("address", "port", "text"),
    [
        (("db", 5432), None, "db:5432"),
        ("db", 5432, "db:5432"),
        (("::1", "ssh"), None, "[::1]:ssh"),
        ("/run/db.sock", None, "unix:/run/db.sock"),
        (b"./db.sock", None, "unix:./db.sock"),
        ("\0abstract", None, "unix:@abstract"),
    ],
)
def test_targets(address: object, port: int | None, text: str) -> None:
    assert str(Target.of(address, port)) == text


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("db", TypeError),
        (("db", None), TypeError),
        (("db", 0), ValueError),
        (("db", 65536), ValueError),
        (("db", True), TypeError),
        (5432, TypeError),
        (("db", 1, 2), TypeError),
        ("/" + "x" * 107, ValueError),
    ],
)
def test_what_is_no_target_is_told_at_once(address: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        Target.of(address)
