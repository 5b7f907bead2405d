"""Each verifier accepts its server, however the answer is fragmented, and nobody else; without a socket."""

from __future__ import annotations

import itertools
import re
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.peers import Echo, Peer, Says, TLSPeer, meet
from tailbite import verify
from tailbite.errors import VerifyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def packet(body: bytes, number: int = 0) -> bytes:
    """Frame a packet as MySQL does."""
    return len(body).to_bytes(3, "little") + bytes([number]) + body


def message(kind: bytes, body: bytes) -> bytes:
    """Frame a message as PostgreSQL does."""
    return kind + struct.pack("!i", len(body) + 4) + body


MARIADB = packet(b"\x0a5.5.5-10.11.6-MariaDB-0+deb12u1\0" + bytes(range(1, 40)) + b"mysql_native_password\0")
WANTS_SCRAM = message(b"R", struct.pack("!i", 10) + b"SCRAM-SHA-256\0\0")
NO_ROLE = message(b"E", b'SFATAL\0VFATAL\0C28000\0Mrole "postgres" does not exist\0\0')
STARTING_UP = message(b"E", b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0")
OPENSSH = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n"
POSTFIX = b"220 mail.example ESMTP Postfix (Debian/GNU)\r\n"
NGINX = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nContent-Length: 2\r\n\r\nok"

FRIENDS: dict[str, tuple[verify.Verifier, Callable[[], Says], bytes]] = {
    # name: (verifier, its server, what of the server's words is left for the caller)
    "postgres": (verify.postgres, lambda: Says(b"", [b"N", WANTS_SCRAM]), b""),
    "postgres, no such user": (verify.postgres, lambda: Says(b"", [b"N", NO_ROLE]), b""),
    "postgres, at once an error": (verify.postgres, lambda: Says(b"", [NO_ROLE]), b""),
    "redis": (verify.redis, lambda: Says(b"", [b"+PONG\r\n"]), b""),
    "redis, wants a password": (verify.redis, lambda: Says(b"", [b"-NOAUTH Authentication required.\r\n"]), b""),
    "mysql": (verify.mysql, lambda: Says(MARIADB), MARIADB),
    "ssh": (verify.ssh, lambda: Says(OPENSSH), OPENSSH),
    "ssh after a notice": (
        verify.ssh,
        lambda: Says(b"Authorised use\r\n" + OPENSSH),
        b"Authorised use\r\n" + OPENSSH,
    ),
    "smtp": (verify.smtp, lambda: Says(POSTFIX), POSTFIX),
    "smtp, several lines": (verify.smtp, lambda: Says(b"220-wait\r\n" + POSTFIX), b"220-wait\r\n" + POSTFIX),
    "http": (verify.http(), lambda: Says(b"", [NGINX]), b""),
    "http, early hints": (verify.http(), lambda: Says(b"", [b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + NGINX]), b""),
    "http, bare LF": (
        verify.http(),
        lambda: Says(b"", [b"HTTP/1.1 103 Early\nLink: x\r\n\nHTTP/1.1 100 Go\n\r\nHTTP/1.1 200 OK\n\n"]),
        b"",
    ),
    "http, one status": (verify.http("/gone", 410), lambda: Says(b"", [b"HTTP/1.0 410\r\n\r\n"]), b""),
    "banner": (verify.banner(b"RFB 003"), lambda: Says(b"RFB 003.008\n"), b"RFB 003.008\n"),
    "banner, a pattern": (
        verify.banner(re.compile(rb"RFB \d{3}\.")),
        lambda: Says(b"RFB 003.008\n"),
        b"RFB 003.008\n",
    ),
    "send, expect": (
        verify.send_expect(b"stats\r\n", b"STAT "),
        lambda: Says(b"", [b"STAT pid 1\r\n"]),
        b"pid 1\r\n",
    ),
}
STRANGERS = {
    "PostgreSQL": lambda: Says(b"", [b"N", WANTS_SCRAM]),
    "Redis": lambda: Says(b"", [b"+PONG\r\n"]),
    "MySQL": lambda: Says(MARIADB),
    "SSH": lambda: Says(OPENSSH),
    "SMTP": lambda: Says(POSTFIX),
    "HTTP": lambda: Says(b"", [NGINX]),
    "HTTP/2": lambda: Says(b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\x10\0\0"),
    "TLS": lambda: Says(b"", [b"\x15\x03\x01\0\x02\x02\x46"]),
    "FTP": lambda: Says(b"220 (vsFTPd 3.0.3)\r\n"),
    "POP3": lambda: Says(b"+OK Dovecot ready.\r\n"),
    "IMAP": lambda: Says(b"* OK [CAPABILITY IMAP4rev1] ready.\r\n"),
    "VNC": lambda: Says(b"RFB 003.008\n"),
    "Telnet": lambda: Says(b"\xff\xfd\x18\xff\xfd\x20"),
    "memcached": lambda: Says(b"", [b"ERROR\r\n", b"ERROR\r\n"]),
    "NATS": lambda: Says(b'INFO {"server_id":"x"}\r\n'),
    "AMQP": lambda: Says(b"", [b"AMQP\0\0\x09\x01"]),
}
VERIFIERS: dict[str, tuple[verify.Verifier, str]] = {
    "postgres": (verify.postgres, "PostgreSQL"),
    "redis": (verify.redis, "Redis"),
    "mysql": (verify.mysql, "MySQL"),
    "ssh": (verify.ssh, "SSH"),
    "smtp": (verify.smtp, "SMTP"),
    "http": (verify.http("/health"), "HTTP"),
    "tls": (verify.tls, ""),
    "redis over tls": (verify.tls(verify.redis), ""),
    "banner": (verify.banner(b"hello"), ""),
    "send-expect": (verify.send_expect(b"hello\r\n", b"world"), ""),
}
ASKERS = [
    name for name, (verifier, _) in VERIFIERS.items() if verifier.name not in ("mysql", "ssh", "smtp", "banner")
]


def cutter(data: st.DataObject) -> Callable[[bytes], Iterator[bytes]]:
    """Cut what a peer says anywhere."""
    sizes = itertools.cycle(data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=6)))

    def cut(stream: bytes) -> Iterator[bytes]:
        while stream:
            size = next(sizes)
            yield stream[:size]
            stream = stream[size:]

    return cut


@pytest.mark.parametrize("name", FRIENDS)
@given(data=st.data())
def test_its_own_server_is_accepted_in_any_fragments_and_the_callers_bytes_are_left(
    name: str, data: st.DataObject
) -> None:
    verifier, server, left = FRIENDS[name]
    verification = meet(verifier, server(), cut=cutter(data))
    said = server()
    everything = said.greeting() + b"".join(said.answers)
    assert everything.startswith(bytes(verification.received))
    if not verifier.spends and left:
        # What was not looked at yet is left in any case.
        assert everything[verification.consumed :] == left


@pytest.mark.parametrize("name", VERIFIERS)
@pytest.mark.parametrize("stranger", STRANGERS)
def test_every_other_protocol_is_refused_and_named(name: str, stranger: str) -> None:
    verifier, own = VERIFIERS[name]
    if stranger == own:
        return
    with pytest.raises(VerifyError) as refused:
        meet(verifier, STRANGERS[stranger](), then=TimeoutError())
    error = refused.value
    assert error.reason in ("protocol", "silent")
    if error.reason == "protocol" and stranger not in ("PostgreSQL", "TLS"):
        is_plain_http = stranger == "HTTP" and "tls" in error.verifier
        assert ("plain HTTP, no TLS: " if is_plain_http else f"looks like {stranger}: ") in error.detail
    if error.reason == "silent":  # those who wait to be asked, asked nothing or something else
        assert not error.received or stranger == "PostgreSQL"


@pytest.mark.parametrize("name", VERIFIERS)
@given(data=st.data())
def test_no_verifier_believes_its_own_echo(name: str, data: st.DataObject) -> None:
    verifier, _ = VERIFIERS[name]
    then = data.draw(st.sampled_from([None, TimeoutError(), ConnectionResetError(104, "Connection reset by peer")]))
    with pytest.raises(VerifyError) as refused:
        meet(verifier, Echo(), cut=cutter(data), then=then)
    if name in ASKERS:
        assert refused.value.reason == "echo"
    else:
        assert refused.value.reason == ("silent" if isinstance(then, TimeoutError) else "closed")


@pytest.mark.parametrize("name", VERIFIERS)
def test_an_echo_server_with_a_greeting_is_refused_too(name: str) -> None:
    verifier, _ = VERIFIERS[name]
    with pytest.raises(VerifyError):
        meet(verifier, Echo(b"echo service, at your service\r\n"), then=TimeoutError())


@pytest.mark.parametrize("name", FRIENDS)
@given(data=st.data())
def test_fragments_change_no_verdict(name: str, data: st.DataObject) -> None:
    """Whatever a server says, true or damaged: the verdict and the bytes taken are the same."""
    verifier, server, _ = FRIENDS[name]
    damage = data.draw(st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), max_size=2))
    junk = data.draw(st.binary(max_size=8))

    def damaged() -> Says:
        peer = server()

        def hurt(words: bytes) -> bytes:
            for at, what in damage:
                words = words[:at] + what + words[at + 1 :]
            return words + junk

        return Says(hurt(peer.greets) if peer.greets else b"", [hurt(words) for words in peer.answers])

    def verdict(cut: Callable[[bytes], Iterator[bytes]] | None) -> int | str:
        try:
            verification = meet(verifier, damaged(), cut=cut) if cut else meet(verifier, damaged())
        except VerifyError:
            return "refused"
        return -1 if verifier.spends else verification.consumed

    assert verdict(None) == verdict(cutter(data))


@pytest.mark.parametrize(
    ("verifier", "peer", "says"),
    [
        (verify.postgres, Says(b"", [b"N", STARTING_UP]), "the database system is starting up"),
        (
            verify.redis,
            Says(b"", [b"-LOADING Redis is loading the dataset in memory\r\n"]),
            "LOADING Redis is loading",
        ),
        (verify.redis, Says(b"", [b"-DENIED Redis is running in protected mode\r\n"]), "protected mode"),
        (verify.mysql, Says(packet(b"\xff\x10\x04#08004Too many connections")), "error 1040: Too many connections"),
        (verify.mysql, Says(packet(b"\xff\x69\x04Host is blocked")), "error 1129: Host is blocked"),
        (verify.ssh, Says(b"Exceeded MaxStartups\r\n"), "Exceeded MaxStartups"),
        (verify.smtp, Says(b"421 too busy\r\n"), "421 too busy"),
        (verify.smtp, Says(b"554 no service here\r\n"), "554 no service"),
        (verify.http("/up"), Says(b"", [b"HTTP/1.1 503 Not yet\r\n\r\n"]), r"/up answers 503 Not yet, not 200-399"),
        (verify.http("/", 204), Says(b"", [NGINX]), r"/ answers 200 OK, not 204"),
        (verify.http("/", range(204, 205)), Says(b"", [NGINX]), r"/ answers 200 OK, not 204$"),
        (
            verify.http("/", 200),
            Says(b"", [b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"]),
            r"302 Found, not 200 \(redirects are not followed\)$",
        ),
        (
            verify.http("/"),
            Says(b"", [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"]),
            r"/ answers 101 Switching Protocols, not 200-399$",
        ),
    ],
)
def test_the_right_server_that_cannot_serve_is_not_ready_in_its_own_words(
    verifier: verify.Verifier, peer: Peer, says: str
) -> None:
    with pytest.raises(VerifyError, match=says) as refused:
        meet(verifier, peer)
    assert refused.value.reason == "not ready"


@pytest.mark.parametrize("verifier", [verify.ssh, verify.redis, verify.postgres, verify.http()])
def test_silence_and_a_close_without_a_word_are_told_apart(verifier: verify.Verifier) -> None:
    with pytest.raises(VerifyError, match="it said nothing") as silent:
        meet(verifier, Says(), then=TimeoutError())
    assert silent.value.reason == "silent"
    with pytest.raises(VerifyError, match="it closed the connection") as closed:
        meet(verifier, Says())
    assert closed.value.reason == "closed"


def test_half_an_answer_is_quoted() -> None:
    with pytest.raises(VerifyError, match=r'it sent only "SSH-2\.0-Op" in time') as refused:
        meet(verify.ssh, Says(OPENSSH[:10]), then=TimeoutError())
    assert refused.value.reason == "silent"
    with pytest.raises(VerifyError, match=r'it closed the connection after "\+PO"') as refused:
        meet(verify.redis, Says(b"", [b"+PO"]))
    assert refused.value.reason == "closed"


def test_a_stream_without_an_end_is_cut_off() -> None:
    with pytest.raises(VerifyError, match="bytes and no end"):
        meet(verify.ssh, Says(b"x\n" * 40_000))


def test_ssh_servers_say_s_to_everybody_and_are_no_postgresql() -> None:
    """The S of SSH-2.0 is what PostgreSQL says when it is willing to speak TLS."""
    with pytest.raises(VerifyError, match="looks like SSH: "):
        meet(verify.postgres, Says(OPENSSH))


# TLS: a real handshake, in memory

_few = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_few
@given(data=st.data())
def test_a_tls_handshake_is_accepted_in_any_fragments(certificate: Path, data: st.DataObject) -> None:
    meet(verify.tls, TLSPeer(certificate, Says()), cut=cutter(data))
    meet(verify.tls(verify.redis), TLSPeer(certificate, Says(b"", [b"+PONG\r\n"])), cut=cutter(data))
    meet(verify.tls(verify.smtp), TLSPeer(certificate, Says(POSTFIX)), cut=cutter(data))
    meet(verify.tls(verify.http("/")), TLSPeer(certificate, Says(b"", [NGINX])), cut=cutter(data))
    meet(verify.postgres, TLSPeer(certificate, Says(b"", [WANTS_SCRAM]), first=b"S"), cut=cutter(data))


def test_what_is_inside_tls_is_judged_as_outside(certificate: Path) -> None:
    with pytest.raises(VerifyError) as echo:
        meet(verify.tls(verify.redis), TLSPeer(certificate, Echo()))
    assert (echo.value.reason, echo.value.verifier) == ("echo", "redis over tls")
    with pytest.raises(VerifyError, match="looks like SSH"):
        meet(verify.tls(verify.redis), TLSPeer(certificate, Says(OPENSSH)))
    with pytest.raises(VerifyError, match="it said nothing") as silent:
        meet(verify.tls(verify.redis), TLSPeer(certificate, Says()), then=TimeoutError())
    assert silent.value.reason == "silent"
    with pytest.raises(VerifyError, match="it closed the connection"):
        meet(verify.tls(verify.redis), TLSPeer(certificate, Says()))
    with pytest.raises(VerifyError, match="the database system is starting up"):
        meet(verify.postgres, TLSPeer(certificate, Says(b"", [STARTING_UP]), first=b"S"))


def test_a_tls_server_that_wants_a_certificate_of_the_client_is_there(certificate: Path) -> None:
    meet(verify.tls, TLSPeer(certificate, Says(), wants_certificate=True))


def test_a_certificate_is_checked_only_when_asked_for(certificate: Path) -> None:
    import ssl

    meet(verify.tls, TLSPeer(certificate, Says()))
    with pytest.raises(VerifyError, match="its certificate is not trusted: "):
        meet(verify.tls(context=ssl.create_default_context()), TLSPeer(certificate, Says()))
    trusting = ssl.create_default_context(cafile=str(certificate))
    meet(verify.tls(context=trusting, server_hostname="localhost"), TLSPeer(certificate, Says()))
    with pytest.raises(VerifyError, match="its certificate is not trusted: Hostname mismatch"):
        meet(verify.tls(context=trusting), TLSPeer(certificate, Says()))


def test_a_tls_alert_in_place_of_a_handshake_is_quoted_in_words() -> None:
    with pytest.raises(VerifyError, match=r"the TLS handshake failed: .*protocol version"):
        meet(verify.tls, STRANGERS["TLS"]())


# What users can get wrong


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: verify.http("health"), "it must begin with /"),
        (lambda: verify.http("/a b"), "percent-encoded"),
        (lambda: verify.http("/x\r\nHost: y"), "percent-encoded"),
        (lambda: verify.banner(b""), "matches an answer of no bytes"),
        (lambda: verify.banner(re.compile(rb".*")), "matches an answer of no bytes"),
        (lambda: verify.send_expect(b"", b"x"), "nothing to send"),
        (lambda: verify.send_expect(b"PING", b"PI"), "an echo of .* could not be distinguished"),
        (lambda: verify.send_expect(b"PING", b"PING ok"), "an echo of .* could not be distinguished"),
        (lambda: verify.postgres(user=""), "must be names"),
        (lambda: verify.postgres(user="a\0b"), "must be names"),
    ],
)
def test_questions_that_prove_nothing_are_refused_at_once(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_text_for_bytes_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="must be bytes"):
        verify.banner("220")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be bytes"):
        verify.send_expect("x", b"y")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "verifier", [verify.postgres, verify.redis, verify.mysql, verify.ssh, verify.smtp, verify.tls]
)
def test_ready_made_ones_are_verifiers_and_can_be_changed(verifier: verify.Verifier) -> None:
    assert isinstance(verifier, verify.Verifier)
    assert verifier.timeout == 5
    changed: verify.Verifier = verifier(timeout=1.5)  # type: ignore[operator]
    assert (changed.timeout, changed.name, changed.spends) == (1.5, verifier.name, verifier.spends)
    assert verifier.timeout == 5


@pytest.mark.parametrize(
    ("host", "port", "header"),
    [
        ("web", 8080, b"web:8080"),
        ("web", 80, b"web"),
        ("::1", 8080, b"[::1]:8080"),
        ("fe80::1%lo", 80, b"[fe80::1]"),
        ("bücher.example", 80, b"xn--bcher-kva.example"),
        ("/run/web.sock", None, b"localhost"),
    ],
)
def test_the_host_header(host: str, port: int | None, header: bytes) -> None:
    from tailbite.connect.target import Target
    from tailbite.verifiers.verification import Send, Verification

    asks = Verification(verify.http("/x?y=1"), Target(host, port)).wants
    assert isinstance(asks, Send)
    assert asks.data.startswith(b"GET /x?y=1 HTTP/1.1\r\nHost: " + header + b"\r\n")
    asks = Verification(verify.http(host="other.example"), Target(host, port)).wants
    assert isinstance(asks, Send)
    assert b"\r\nHost: other.example\r\n" in asks.data
