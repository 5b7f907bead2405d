"""On real sockets: what a verifier looks at stays in the socket, what it used up is gone, and time is kept."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

import tailbite
from support.trap import PORT
from tailbite import verify
from tailbite.connect.target import Target
from tailbite.dial.verify_sync import verify as verify_socket
from tailbite.dial.waiter import Waiter
from tailbite.errors import VerifyError
from tailbite.kernel.sockopt import abort

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Target("db", 4000)


def shell(sock: socket.socket, verifier: verify.Verifier, timeout: float) -> None:
    """Hold a conversation as the blocking shell does."""
    sock.setblocking(False)
    waiter = Waiter()
    with waiter.armed():
        verify_socket(sock, verifier, HERE, timeout, waiter)
    sock.settimeout(60)


@pytest.fixture(params=["tcp", "unix"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected client, and the server's end of the connection."""
    if request.param == "unix":
        client, server = socket.socketpair()
    else:
        request.getfixturevalue("network")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
    with client, server:
        yield client, server


@contextlib.contextmanager
def saying(server: socket.socket, *chunks: bytes, pause: float = 0.03) -> Iterator[None]:
    """Have the server's end send this, piece by piece."""

    def talk() -> None:
        for chunk in chunks:
            time.sleep(pause)
            server.sendall(chunk)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_greeting_in_pieces_is_left_for_the_caller(ends: tuple[socket.socket, socket.socket]) -> None:
    client, server = ends
    with saying(server, b"SS", b"H-2.0-Op", b"enSSH_9\r", b"\n\0\0\1"):
        shell(client, verify.ssh, 30)
    server.shutdown(socket.SHUT_WR)
    assert b"".join(iter(lambda: client.recv(7), b"")) == b"SSH-2.0-OpenSSH_9\r\n\0\0\1"


def test_an_answer_is_taken_and_what_follows_is_left(ends: tuple[socket.socket, socket.socket]) -> None:
    client, server = ends
    with saying(server, b"+P", b"ONG\r\n+next\r\n"):
        shell(client, verify.redis, 30)
    assert server.recv(100) == b"*1\r\n$4\r\nPING\r\n"
    assert client.recv(100) == b"+next\r\n"
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


@pytest.mark.parametrize("said", [b"", b"SSH-2"], ids=["nothing", "half"])
def test_a_silent_peer_is_refused_in_time_without_burning_it(
    ends: tuple[socket.socket, socket.socket], said: bytes
) -> None:
    client, server = ends
    server.sendall(said)
    start, busy = time.monotonic(), time.thread_time()
    with pytest.raises(VerifyError) as refused:
        shell(client, verify.ssh, 0.3)
    assert refused.value.reason == "silent"
    assert (refused.value.target, refused.value.received) == ("db:4000", said)
    assert 0.29 <= time.monotonic() - start < 40
    assert time.thread_time() - busy < 0.15


@pytest.mark.parametrize("said", [b"", b"SSH-2"], ids=["nothing", "half"])
def test_a_peer_that_closes_is_noticed_at_once(ends: tuple[socket.socket, socket.socket], said: bytes) -> None:
    client, server = ends
    server.sendall(said)
    server.close()
    start = time.monotonic()
    with pytest.raises(VerifyError) as refused:
        shell(client, verify.ssh, 60)
    assert refused.value.reason == "closed"
    assert time.monotonic() - start < 40


def test_a_reset_is_a_refusal_too(ends: tuple[socket.socket, socket.socket]) -> None:
    client, server = ends
    client.sendall(b"unread, so closing resets")
    server.close()
    with pytest.raises(VerifyError) as refused:
        shell(client, verify.redis, 30)
    assert refused.value.reason == "closed"


def test_a_spent_connection_is_simply_read(ends: tuple[socket.socket, socket.socket]) -> None:
    client, server = ends
    with saying(server, b"HTTP/1.1 2", b"04 No Content\r\n\r\n"):
        shell(client, verify.http("/health", 204), 30)
    assert server.recv(1000).startswith(b"GET /health HTTP/1.1\r\nHost: db:4000\r\n")


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("verifier", "reason"),
    [
        (verify.postgres, "echo"),
        (verify.redis, "echo"),
        (verify.http("/"), "echo"),
        (verify.tls, "echo"),
        (verify.tls(verify.redis), "echo"),
        (verify.send_expect(b"hello", b"world"), "echo"),
        (verify.mysql, "silent"),
        (verify.ssh, "silent"),
        (verify.smtp, "silent"),
        (verify.banner(b"hello"), "silent"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_no_verifier_believes_a_real_self_connect(verifier: verify.Verifier, reason: str) -> None:
    """A plain socket that is connected to itself, which tailbite would never have made."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", PORT))
        sock.connect(("127.0.0.1", PORT))
        assert tailbite.is_self_connected(sock)
        with pytest.raises(VerifyError) as refused:
            shell(sock, verifier, 0.3)
        assert refused.value.reason == reason
        abort(sock)
