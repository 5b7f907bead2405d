"""Targets of a wait as users write them, and the refusal of other text, without repeating secrets in it."""

from __future__ import annotations

from typing import Any

import pytest

import tailbite
from tailbite import verify
from tailbite.readiness.target import Wanted


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("db:5432", "db:5432"),
        (("db", 5432), "db:5432"),
        ("[::1]:22", "[::1]:22"),
        ("db:ssh", "db:22"),
        ("/run/db.sock", "unix:/run/db.sock"),
        ("unix:./db.sock", "unix:./db.sock"),
        ("unix:///run/db.sock", "unix:/run/db.sock"),
        ("unix:@name", "unix:@name"),
        ("unix:db.sock", "unix:./db.sock"),
        ("unix://db.sock", "unix:./db.sock"),
        ("postgres://db", "db:5432 (postgres)"),
        ("postgresql+psycopg://u:secret@db:5433/shop", "db:5433 (postgres)"),
        ("jdbc:postgresql://db/shop", "db:5432 (postgres)"),
        ("redis://:secret@cache/0", "cache:6379 (redis)"),
        ("rediss://cache", "cache:6379 (redis over tls)"),
        ("mariadb://db", "db:3306 (mysql)"),
        ("mysql://[::1]", "[::1]:3306 (mysql)"),
        ("ssh://git@host", "host:22 (ssh)"),
        ("smtp://mail", "mail:25 (smtp)"),
        ("smtps://mail", "mail:465 (smtp over tls)"),
        ("http://web:8080/up?x=1", "web:8080 (http)"),
        ("https://web", "web:443 (http over tls)"),
        ("tls://web:443", "web:443 (tls)"),
        ("tcp://db:1", "db:1"),
    ],
)
def test_targets_as_users_write_them(given: Any, shown: str) -> None:
    assert str(Wanted.of(given)) == shown


def test_what_a_url_says_is_asked_for() -> None:
    assert Wanted.of("postgres://al%20ice:x@db/shop").verifier == verify.postgres(
        user="al ice", database="shop", password="x"
    )
    assert Wanted.of("postgres://alice@db").verifier == verify.postgres(user="alice", database="alice")
    assert Wanted.of("postgres://alice:p%40ss@db").verifier == verify.postgres(
        user="alice", database="alice", password="p@ss"
    )
    assert Wanted.of("https://web/up?x=1").verifier == verify.tls(verify.http("/up?x=1"))
    assert Wanted.of("http://u:p@web").verifier == verify.http("/", credentials=("u", "p"))
    assert Wanted.of("http://u@web").verifier == verify.http("/", credentials=("u", ""))
    assert Wanted.of("https://web", http_status=401).verifier == verify.tls(verify.http("/", 401))
    assert "p@ss" not in repr(Wanted.of("redis://u:p%40ss@cache"))
    assert Wanted.of("db:1", verify.redis).verifier is verify.redis
    assert Wanted.of("tcp://db:1", verify.redis).verifier is None
    assert {str(Wanted.of(text)) for text in ("5432", ":5432", ":postgresql")} == {"localhost:5432"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("db", "is not HOST:PORT: write it like db:5432"),
        ("ssh", "can be a host or a service: write ssh:PORT, or localhost:ssh"),
        ("http+unix:///run/app.sock", "for a Unix socket write --http PATH /run/app.sock"),
        ("::1:5432", r"write it like \[::1\]:5432"),
        ("db:0", "is not a valid port to connect to"),
        ("db:65536", "is not a valid port to connect to"),
        ("db:nosuchservice", "neither a port nor the name of a service"),
        ("db: 1", "is not HOST:PORT"),
        ("", "is not HOST:PORT"),
        ("app.sock", "or for a Unix socket ./app.sock"),
        ("gopher://x", "gopher:// is unknown; known are postgres"),
        ("tcp://db", "has no port: write tcp://db:PORT"),
        ("redis://", "has no host"),
        ("redis://h:99999", "99999 is not a valid port to connect to"),
        ("http://h/a b", "percent-encoded"),
        ("http//web:80", "'http//web' is not a valid host name"),
        ("a,b:80", "'a,b' is not a valid host name"),
        ("a..b:80", "'a..b' is not a valid host name"),
        ("b" * 64 + ":80", "is not a valid host name"),
        ("web%eth0:80", "is not a valid host name"),
        ("[::1%lo]:80", "names an interface, which only a link-local address"),
        ("http://[::1%25lo]", "names an interface, which only a link-local address"),
        ("@name", "for an abstract Unix socket write unix:@name"),
    ],
)
def test_what_cannot_be_read_is_told_with_how_to_write_it(given: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tailbite.wait(given, timeout=0)


def test_passwords_are_never_shown() -> None:
    plain = ("u:secret@h:1", "secret@h:1", "u:secret@h")
    queries = ("gopher://h/?key=secret", "http://h/a b?token=secret")
    for url in (
        *("redis://u:secret@h:99999", "tcp://u:secret@h", "gopher://u:secret@h", "redis://secret@h"),
        *("gopher://secret@h", "postgres://secret@", *plain, *queries),
    ):
        with pytest.raises(ValueError) as error:
            tailbite.wait(url)
        assert "secret" not in str(error.value)
    for password in ("sec/ret", "sec?ret", "sec#ret", "sec@ret", "secret]["):
        with pytest.raises(ValueError) as error:
            tailbite.wait(f"mysql://u:{password}@h/x")
        assert "sec" not in str(error.value)
        assert "ret" not in str(error.value).replace("secret", "")
    with pytest.raises(ValueError, match="must be percent-encoded, as in %2F"):
        tailbite.wait("http://u:sec/ret@h")
    with pytest.raises(ValueError, match="nothing to wait for"):
        tailbite.wait()
