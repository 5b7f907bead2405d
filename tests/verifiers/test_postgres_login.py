"""The client's half of PostgreSQL's logins, against the examples of the RFCs and of PostgreSQL."""

from __future__ import annotations

from hashlib import md5

import pytest

from tailbite.verifiers.postgres_login import Scram, md5_response

NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = f"r={NONCE}%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"


def test_the_example_of_rfc_7677() -> None:
    scram = Scram("pencil", NONCE, "user")
    assert scram.first == f"n,,n=user,r={NONCE}".encode()
    assert scram.final(SERVER_FIRST.encode()) == (
        f"c=biws,r={NONCE}%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".encode()
    )
    assert scram.is_from_server(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    assert not scram.is_from_server(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=")


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "e=other-error",
        SERVER_FIRST.replace("i=4096", "i=0"),
        SERVER_FIRST.replace("i=4096", "i=1000000000"),
        SERVER_FIRST.replace("i=4096", "i=x"),
        SERVER_FIRST.replace("r=rOpr", "r=other"),
        f"r={NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        SERVER_FIRST.replace("s=W22", "s=*"),
    ],
)
def test_a_message_that_is_not_valid_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError):
        Scram("pencil", NONCE).final(wrong.encode())


def test_every_exchange_has_a_nonce_of_its_own() -> None:
    assert Scram("x").first != Scram("x").first


def test_the_md5_login() -> None:
    stored = md5(b"secretpostgres").hexdigest()  # pg_authid.rolpassword, after "md5"
    assert (
        md5_response("postgres", "secret", b"salt") == f"md5{md5(stored.encode() + b'salt').hexdigest()}\0".encode()
    )
