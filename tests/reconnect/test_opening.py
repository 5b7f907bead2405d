"""The opening of a connection in every shell: addresses, TLS, Unix sockets, verifiers, options; and nothing leaks."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

import tailbite
from conftest import find_peer
from support.greeting import Greeted, greet, names
from support.server import serving
from support.shells import ALL, ASYNCHRONOUS, name_of
from support.trap import PORT, leftovers, server_can_bind
from tailbite.reconnect import events

if TYPE_CHECKING:
    from pathlib import Path

    from support.shells import Shell


HERE = ("127.0.0.1", PORT)
FAST = tailbite.Backoff(0.01, 0.05)

pytestmark = pytest.mark.usefixtures("network", "nothing_left")


async def answer(value: Any) -> Any:
    return value


def test_the_verifiers_bytes_are_the_callers(shell: Shell) -> None:
    """A greeting of which the verifier keeps none, and one of which it keeps a part."""
    for keeps, expected in ((0, b"hello\nand more"), (6, b"and more")):

        async def scenario(keeps: int = keeps) -> Any:
            async for connection in shell.connections(HERE, verify=Greeted(keeps=keeps)):
                async with connection as stream:
                    data = b""
                    while more := await stream.receive():
                        data += more
                    return data
            return b""

        def talk(sock: socket.socket) -> None:
            for piece in (b"hel", b"lo", b"\nand", b" more"):
                sock.sendall(piece)
                time.sleep(0.02)

        with serving(talk):
            assert shell.run(scenario) == expected


def test_bytes_after_a_verifiers_question_arrive_in_order(shell: Shell) -> None:
    async def scenario() -> Any:
        async for connection in shell.connections(HERE, verify=Greeted(sends=b"who?", keeps=6)):
            async with connection as stream:
                await stream.send(b"next")
                data = b""
                while more := await stream.receive():
                    data += more
                return data
        return b""

    def talk(sock: socket.socket) -> None:
        assert sock.recv(100) == b"who?"
        sock.sendall(b"hello\nab")
        assert sock.recv(100) == b"next"
        sock.sendall(b"cd")

    with serving(talk):
        assert shell.run(scenario) == b"abcd"


@pytest.mark.parametrize(
    ("peer", "verify", "reason"),
    [
        (lambda sock: sock.recv(10), Greeted(timeout=0.3), "silent"),
        (lambda sock: sock.sendall(b"220 other\n"), Greeted(), "protocol"),
        (lambda sock: None, Greeted(), "closed"),
        (lambda sock: sock.sendall(b"hel"), Greeted(), "closed"),
        (lambda sock: sock.sendall(sock.recv(10)), Greeted(sends=b"anybody there?"), "echo"),
    ],
    ids=["silent", "other protocol", "closes", "closes in the middle", "echo"],
)
def test_a_peer_that_is_not_the_server_is_refused_in_time(
    shell: Shell, peer: Any, verify: Greeted, reason: str
) -> None:
    seen: list[events.Event] = []

    async def scenario() -> None:
        async for connection in shell.connections(
            HERE, verify=verify, timeout=60, backoff=FAST, max_attempts=2, hooks=seen.append
        ):
            async with connection:
                raise AssertionError("it was believed")

    start = time.monotonic()
    with serving(peer), pytest.raises(tailbite.GaveUpError) as gave_up:
        shell.run(scenario)
    assert time.monotonic() - start < 30
    assert names(seen).count("VerifyFailed") == 2
    assert "Connected" not in names(seen)
    for attempt in gave_up.value.attempts:
        assert isinstance(attempt.error, tailbite.VerifyError)
        assert attempt.error.reason == reason


def test_a_spent_connection_is_replaced(shell: Shell) -> None:
    async def scenario() -> Any:
        async for connection in shell.connections(HERE, verify=Greeted(spends=True)):
            async with connection as stream:
                return await stream.receive()
        return b""

    with serving(greet) as accepted:
        assert shell.run(scenario) == b"hello\n"
        assert len(accepted) == 2


def test_tls_with_a_verifier_and_the_right_name(
    shell: Shell, tls_sides: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    server_side, client_side = tls_sides

    def talk(sock: socket.socket) -> None:
        with server_side.wrap_socket(sock, server_side=True) as secure:
            secure.sendall(b"hello\nand more")
            secure.recv(100)

    async def scenario() -> Any:
        async for connection in shell.connections(("localhost", PORT), ssl=client_side, verify=Greeted(keeps=3)):
            async with connection as stream:
                data = b""
                while len(data) < 11:
                    data += await stream.receive()
                await stream.send(b"thanks")
                return data
        return b""

    async def wrong_name() -> None:
        async for _ in shell.connections(HERE, ssl=client_side, server_hostname="other.example"):
            raise AssertionError("a wrong name was accepted")

    with serving(talk):
        assert shell.run(scenario) == b"lo\nand more"
        with pytest.raises(ssl.SSLCertVerificationError):  # fatal: it cannot mend itself
            shell.run(wrong_name)


def test_an_ssl_socket_hands_out_the_callers_bytes_first_however_it_is_read(
    tls_sides: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    server_side, client_side = tls_sides

    def talk(sock: socket.socket) -> None:
        with server_side.wrap_socket(sock, server_side=True) as secure:
            secure.sendall(b"hello\n")
            secure.recv(100)
            secure.sendall(b"one\ntwo\n")

    verifier = Greeted()
    with serving(talk):
        for connection in tailbite.connections(
            ("localhost", PORT), ssl=client_side, verify=verifier, read_timeout=60
        ):
            with connection as sock:
                assert isinstance(sock, ssl.SSLSocket)
                assert sock.pending() == 6
                assert sock.recv(1) == b"h"
                buffer = bytearray(3)
                assert sock.recv_into(buffer) == 3
                assert buffer == b"ell"
                sock.sendall(b"more")
                with sock.makefile("rb") as lines:
                    assert [next(lines) for _ in range(3)] == [b"o\n", b"one\n", b"two\n"]
            break


def test_a_tls_handshake_that_hangs_ends_in_time(shell: Shell, certificate: Path) -> None:
    context = ssl.create_default_context(cafile=str(certificate))

    async def scenario() -> None:
        where, name = ("127.0.0.1", PORT), "localhost"
        async for _ in shell.connections(where, ssl=context, server_hostname=name, timeout=0.5, max_attempts=1):
            raise AssertionError

    with serving(lambda sock: sock.recv(10) and sock.recv(10000) and sock.recv(10)):
        with pytest.raises(tailbite.GaveUpError) as gave_up:
            shell.run(scenario)
    assert isinstance(gave_up.value.attempts[0].error, TimeoutError)


def test_unix_sockets_need_no_guard_and_work(shell: Shell, tmp_path: Path) -> None:
    path = str(tmp_path / "server.sock")
    refusals: list[events.Refused] = []

    def hook(event: events.Event) -> None:
        if isinstance(event, events.Refused):
            refusals.append(event)
            stack.enter_context(serving(greet, path))

    async def scenario() -> Any:
        async for connection in shell.connections(path, backoff=FAST, hooks=hook, verify=Greeted()):
            async with connection as stream:
                return await stream.receive()
        return b""

    with contextlib.ExitStack() as stack:
        assert shell.run(scenario) == b"hello\n"
    (refusal,) = refusals
    assert isinstance(refusal.error, FileNotFoundError)


def test_a_full_backlog_of_a_unix_socket_is_no_connection(shell: Shell, tmp_path: Path) -> None:
    path = str(tmp_path / "server.sock")

    async def scenario() -> None:
        async for _ in shell.connections(path, backoff=FAST, max_attempts=2):
            raise AssertionError("the backlog is full")

    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(path)
        listener.listen(0)
        for _ in range(1):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        with pytest.raises(tailbite.GaveUpError) as gave_up:
            shell.run(scenario)
    assert isinstance(gave_up.value.attempts[0].error, BlockingIOError)


def test_names_with_several_addresses_find_the_one_that_answers(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """::1 refuses, 127.0.0.1 answers; with nobody there, both errors are reported."""

    def two(*_: object, **__: object) -> list[object]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", PORT, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", HERE),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", two)

    async def scenario() -> Any:
        async for connection in shell.connections(("two.example", PORT), max_attempts=1):
            async with connection as stream:
                return await stream.receive()
        return b""

    if shell.name == "anyio on trio":
        monkeypatch.setattr("trio.socket.getaddrinfo", lambda *a, **k: answer(two()))
    with serving(greet):
        assert shell.run(scenario) == b"hello\n"
    with pytest.raises(tailbite.GaveUpError) as gave_up:
        shell.run(scenario)
    error = gave_up.value.attempts[0].error
    assert isinstance(error, tailbite.AddressesError)
    assert [each.errno for each in error.errors] == [111, 111]
    assert error.errno == 111


def test_each_attempt_resolves_the_name_again(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server moved to another address while the loop waited: the third answer of the resolver has it."""
    asked: list[int] = []

    def moved(*_: object, **__: object) -> list[object]:
        asked.append(len(asked))
        where = HERE if len(asked) > 2 else ("127.0.0.9", PORT)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where)]

    async def scenario() -> Any:
        async for connection in shell.connections(("moves.example", PORT), backoff=FAST, max_attempts=5):
            async with connection as stream:
                return await stream.receive()
        return b""

    monkeypatch.setattr(socket, "getaddrinfo", moved)
    if shell.name == "anyio on trio":
        monkeypatch.setattr("trio.socket.getaddrinfo", lambda *a, **k: answer(moved()))
    with serving(greet):
        assert shell.run(scenario) == b"hello\n"
    assert asked == [0, 1, 2]


def test_an_address_that_does_not_answer_is_passed_by(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Happy eyeballs: a black hole first, the server second, which is asked after the delay, not after the first."""
    for command in (
        "link add v0 type veth peer name v1",
        "addr add 10.92.0.1/24 dev v0",
        "link set v0 up",
        "link set v1 up",
        "neigh add 10.92.0.2 lladdr 02:00:00:00:00:02 dev v0",
    ):
        subprocess.run([find_peer("ip"), *command.split()], check=True)
    two = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, PORT)) for host in ("10.92.0.2", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: two)
    monkeypatch.setattr("trio.socket.getaddrinfo", lambda *_, **__: answer(two))

    async def scenario() -> Any:
        async for connection in shell.connections(("two.example", PORT), timeout=60, happy_eyeballs_delay=0.05):
            async with connection as stream:
                return await stream.receive()
        return b""

    start = time.monotonic()
    with serving(greet):
        assert shell.run(scenario) == b"hello\n"
    assert time.monotonic() - start < 40  # the first address is given up after a minute


def test_a_self_connect_that_was_asked_for_is_found_reset_and_told(shell: Shell) -> None:
    """With the destination's port as source port it is certain; the loop sees it as nobody there, and continues."""
    seen: list[events.Event] = []

    async def scenario() -> None:
        async for _ in shell.connections(
            HERE, source_address=HERE, allow_same_port=True, backoff=FAST, max_attempts=20, hooks=seen.append
        ):
            raise AssertionError("it was believed")

    with pytest.raises(tailbite.GaveUpError):
        shell.run(scenario)
    assert "SelfConnected" in names(seen)
    assert leftovers() == []
    assert server_can_bind()
    with pytest.raises(tailbite.SourcePortError):
        shell.run(lambda: refused(shell))


async def refused(shell: Shell) -> None:
    async for _ in shell.connections(HERE, source_address=HERE):
        raise AssertionError


@pytest.mark.parametrize("nodelay", [True, False], ids=["nodelay", "delayed"])
@pytest.mark.parametrize("shell", [ALL[0], *ASYNCHRONOUS], ids=name_of)
def test_options_reach_the_socket(shell: Shell, nodelay: bool) -> None:
    async def scenario() -> dict[str, int]:
        async for connection in shell.connections(HERE, keepalive=60, user_timeout=2.5, nodelay=nodelay):
            async with connection as stream:
                raw = stream.raw
                sock: Any = raw
                if hasattr(raw, "writer"):
                    sock = raw.writer.get_extra_info("socket")
                elif hasattr(raw, "extra"):
                    import anyio.abc

                    sock = raw.extra(anyio.abc.SocketAttribute.raw_socket)
                options = ("TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
                found = {name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in options}
                found["SO_KEEPALIVE"] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                return found
        return {}

    with serving(greet):
        assert shell.run(scenario) == {
            "TCP_NODELAY": int(nodelay),
            "TCP_KEEPIDLE": 30,
            "TCP_KEEPINTVL": 10,
            "TCP_KEEPCNT": 3,
            "TCP_USER_TIMEOUT": 2500,
            "SO_KEEPALIVE": 1,
        }
