"""``connections()`` in every shell: reconnects, verifies, gives up, ends at once; and leaks nothing."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import tailbite
from conftest import find_peer
from support.server import server_for, serving
from support.shells import ALL, Blocking, Shell
from support.trap import PORT, Trap, leftovers, server_can_bind
from tailbite.reconnect import events
from tailbite.verifiers.verification import Conversation, Receive, Send

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.connect.target import Target

HERE = ("127.0.0.1", PORT)
FAST = tailbite.Backoff(0.01, 0.05)

pytestmark = pytest.mark.usefixtures("network")


@pytest.fixture(params=ALL, ids=lambda shell: shell.name)
def shell(request: pytest.FixtureRequest) -> Shell:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def no_descriptor_is_leaked(network: None) -> Iterator[None]:
    """Every test here ends with the descriptors it began with."""

    def sockets() -> set[str]:
        names = set()
        for path in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                names.add(str(path.readlink()))
        return {name for name in names if name.startswith("socket:")}

    before = sockets()
    yield
    deadline = time.monotonic() + 5
    while (left := sockets() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left == set()


def greet(sock: socket.socket) -> None:
    sock.sendall(b"hello\n")


def echo_upper(sock: socket.socket) -> None:
    while data := sock.recv(4096):
        sock.sendall(data.upper())


def names(seen: list[events.Event]) -> list[str]:
    return [type(event).__name__ for event in seen]


@dataclass(frozen=True)
class Greeted:
    """The server speaks first; its greeting is the caller's."""

    name: str = "greeting"
    timeout: float = 0.3
    spends: bool = False
    sends: bytes = b""
    keeps: int = 0

    def talk(self, target: Target) -> Conversation:
        if self.sends:
            yield Send(self.sends)
        data = b""
        while len(data) < 6:
            more = yield Receive(3)
            if not more:
                raise tailbite.VerifyError("closed", "it closed the connection")
            data += more
        if not data.startswith(b"hello\n"):
            raise tailbite.VerifyError("protocol", f"it says {data!r}")
        return data[self.keeps :]


def test_a_lost_connection_is_followed_by_the_next_one(shell: Shell) -> None:
    seen: list[events.Event] = []

    async def scenario() -> list[bytes]:
        heard = []
        async for connection in shell.connections(HERE, backoff=FAST, hooks=seen.append):
            async with connection as stream:
                heard.append(await stream.receive())
                if len(heard) == 2:
                    raise ConnectionResetError("lost")
                if len(heard) == 3:
                    break
        return heard

    with serving(greet):
        assert shell.run(scenario) == [b"hello\n"] * 3
    told = [name for name in names(seen) if name != "Waiting"]  # the wait may be over before it begins
    assert told == ["Attempting", "Connected", "Lost"] * 3
    lost = [event.error for event in seen if isinstance(event, events.Lost)]
    assert [type(error).__name__ for error in lost] == ["NoneType", "ConnectionResetError", "NoneType"]


def test_other_errors_propagate(shell: Shell) -> None:
    async def scenario() -> None:
        async for connection in shell.connections(HERE, backoff=FAST):
            async with connection:
                raise FileNotFoundError("the user's own")

    with serving(greet), pytest.raises(FileNotFoundError, match="the user's own") as raised:
        shell.run(scenario)
    assert raised.traceback[-1].name == "scenario"  # the traceback is what the user needs to find it


def test_a_fatal_error_keeps_its_traceback(shell: Shell) -> None:
    async def scenario() -> None:
        async for _ in shell.connections(HERE, retry=lambda error: False):
            raise AssertionError

    with pytest.raises(ConnectionRefusedError) as raised:
        shell.run(scenario)
    assert any("dial" in entry.path.parts for entry in raised.traceback)  # type: ignore[union-attr]


def test_an_error_the_classifier_raises_ends_the_loop(shell: Shell) -> None:
    def decide(error: BaseException) -> bool:
        raise LookupError("replaced") from error

    async def scenario() -> None:
        async for _ in shell.connections(HERE, retry=decide):
            raise AssertionError

    with pytest.raises(LookupError, match="replaced"):
        shell.run(scenario)


def test_what_is_remembered_keeps_no_frames_alive(shell: Shell) -> None:
    async def scenario() -> None:
        async for _ in shell.connections(HERE, backoff=FAST, max_attempts=3):
            raise AssertionError

    with pytest.raises(tailbite.GaveUpError) as gave_up:
        shell.run(scenario)
    for attempt in gave_up.value.attempts[:-1]:
        assert attempt.error is not None
        assert attempt.error.__traceback__ is None


def test_a_name_without_addresses_is_told(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    monkeypatch.setattr("trio.socket.getaddrinfo", lambda *a, **k: answer([]))

    async def scenario() -> None:
        async for _ in shell.connections(("none.example", PORT), max_attempts=1):
            raise AssertionError

    with pytest.raises(tailbite.GaveUpError, match=r"has no address|empty list"):
        shell.run(scenario)


def test_a_loop_lives_through_a_lack_of_descriptors() -> None:
    """In a process that has none left, the blocking loop goes on when there are some again."""
    program = f"""
import os, resource, threading, time, tailbite
connections, some = tailbite.connections, tailbite.Backoff(0.05, 0.05)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True: held.append(os.dup(0))
except OSError: pass
def free():
    time.sleep(0.5)
    while held: os.close(held.pop())
threading.Thread(target=free).start()
seen = []
for connection in connections(("127.0.0.1", {PORT}), backoff=some, hooks=seen.append):
    with connection as sock:
        assert sock.recv(10) == b"hello\\n"
    break
assert any("Too many open files" in str(getattr(event, "error", "")) for event in seen), seen
"""
    with serving(greet):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_group_of_lost_connections_is_a_lost_connection(shell: Shell) -> None:
    async def scenario() -> int:
        times = 0
        async for connection in shell.connections(HERE, backoff=FAST):
            async with connection:
                times += 1
                if times < 3:
                    raise ExceptionGroup("tasks", [ConnectionResetError(), EOFError()])
                break
        return times

    with serving(greet):
        assert shell.run(scenario) == 3


def test_it_never_reaches_itself_and_the_server_can_start(shell: Shell) -> None:
    """In the trap, beside a control that does; the server binds without SO_REUSEADDR while the loop runs."""
    Trap().set().control()
    seen: list[events.Event] = []

    async def scenario() -> None:
        async for connection in shell.connections(
            HERE, backoff=tailbite.Backoff(0, 0), max_attempts=500, hooks=seen.append
        ):
            async with connection:
                raise AssertionError("connected to nobody")

    with pytest.raises(tailbite.GaveUpError) as gave_up:
        shell.run(scenario)
    assert gave_up.value.total == len(gave_up.value.attempts) == 500
    assert all(isinstance(each.error, ConnectionRefusedError) for each in gave_up.value.attempts)
    assert "SelfConnected" not in names(seen)
    assert leftovers() == []
    assert server_can_bind()
    Trap().control()


def test_the_server_is_found_when_it_comes(shell: Shell) -> None:
    async def scenario() -> Any:
        async for connection in shell.connections(HERE, backoff=FAST):
            async with connection as stream:
                return await stream.receive()
        return b""

    with contextlib.ExitStack() as stack:
        timer = threading.Timer(0.2, lambda: stack.enter_context(serving(greet)))
        timer.start()
        assert shell.run(scenario) == b"hello\n"
        timer.join()


def test_a_peer_that_closes_at_once_is_no_hot_loop(shell: Shell) -> None:
    """Without a growing wait these few connections would take no time: the waits add up to the backoff's delays."""

    async def scenario() -> None:
        async for connection in shell.connections(
            HERE, backoff=tailbite.Backoff(0.01, 0.32, draw=lambda: 1.0), max_attempts=8
        ):
            async with connection as stream:
                await stream.receive()

    start = time.monotonic()
    with serving(lambda sock: None) as accepted, pytest.raises(tailbite.GaveUpError, match="max_attempts is 8"):
        shell.run(scenario)
    assert len(accepted) == 9  # the first ends the outage before there was a connection
    assert time.monotonic() - start >= 0.01 + 0.01 + 0.02 + 0.04 + 0.08 + 0.16 + 0.32 + 0.32


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
        async for connection in shell.connections(HERE, verify=Greeted(sends=b"who?", keeps=6, timeout=5)):
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
    ("peer", "sends", "reason"),
    [
        (lambda sock: sock.recv(10), b"", "silent"),
        (lambda sock: sock.sendall(b"220 other\n"), b"", "protocol"),
        (lambda sock: None, b"", "closed"),
        (lambda sock: sock.sendall(b"hel"), b"", "closed"),
        (lambda sock: sock.sendall(sock.recv(10)), b"anybody there?", "echo"),
    ],
    ids=["silent", "other protocol", "closes", "closes in the middle", "echo"],
)
def test_a_peer_that_is_not_the_server_is_refused_in_time(shell: Shell, peer: Any, sends: bytes, reason: str) -> None:
    seen: list[events.Event] = []

    async def scenario() -> None:
        async for connection in shell.connections(
            HERE, verify=Greeted(sends=sends), backoff=FAST, max_attempts=2, hooks=seen.append
        ):
            async with connection:
                raise AssertionError("it was believed")

    start = time.monotonic()
    with serving(peer), pytest.raises(tailbite.GaveUpError) as gave_up:
        shell.run(scenario)
    assert time.monotonic() - start < 3
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
        async for connection in shell.connections(
            ("localhost", PORT), ssl=client_side, verify=Greeted(keeps=3, timeout=5)
        ):
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

    verifier = Greeted(timeout=5)
    with serving(talk):
        for connection in tailbite.connections(("localhost", PORT), ssl=client_side, verify=verifier, read_timeout=5):
            with connection as sock:
                assert isinstance(sock, ssl.SSLSocket)
                assert sock.pending() == 6
                assert sock.recv(2) == b"he"
                buffer = bytearray(2)
                assert sock.recv_into(buffer) == 2
                assert buffer == b"ll"
                sock.sendall(b"more")
                with sock.makefile("rb") as lines:
                    assert [next(lines) for _ in range(3)] == [b"o\n", b"one\n", b"two\n"]
            break


def test_a_tls_handshake_that_hangs_ends_in_time(shell: Shell, certificate: Path) -> None:
    context = ssl.create_default_context(cafile=str(certificate))

    async def scenario() -> None:
        async for _ in shell.connections(("localhost", PORT), ssl=context, timeout=0.2, max_attempts=1):
            raise AssertionError

    with serving(lambda sock: sock.recv(10) and sock.recv(10000) and sock.recv(10)):
        with pytest.raises(tailbite.GaveUpError) as gave_up:
            shell.run(scenario)
    assert isinstance(gave_up.value.attempts[0].error, TimeoutError)


def test_unix_sockets_need_no_guard_and_work(shell: Shell, tmp_path: Path) -> None:
    path = str(tmp_path / "server.sock")
    seen: list[events.Event] = []

    async def scenario() -> Any:
        async for connection in shell.connections(path, backoff=FAST, hooks=seen.append, verify=Greeted(timeout=5)):
            async with connection as stream:
                return await stream.receive()
        return b""

    with contextlib.ExitStack() as stack:
        timer = threading.Timer(0.1, lambda: stack.enter_context(serving(greet, path)))
        timer.start()
        assert shell.run(scenario) == b"hello\n"
        timer.join()
    assert isinstance(next(event for event in seen if isinstance(event, events.Refused)).error, FileNotFoundError)


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


def test_no_answer_is_a_timeout(shell: Shell) -> None:
    async def scenario() -> None:
        async for _ in shell.connections(HERE, timeout=0.2, backoff=FAST, max_attempts=2):
            raise AssertionError

    with socket.create_server(HERE, backlog=0), socket.create_connection(HERE):
        start = time.monotonic()
        with pytest.raises(tailbite.GaveUpError, match="did not answer in time"):
            shell.run(scenario)
        assert 0.4 <= time.monotonic() - start < 2


@pytest.mark.parametrize("when", ["sleeping", "connecting", "verifying", "reading"])
def test_close_ends_it_at_once(when: str, shell: Shell) -> None:
    """From another thread: also while it sleeps, connects, verifies, or has given the connection away."""
    settings: dict[str, Any] = {"backoff": tailbite.Backoff(60, 60, draw=lambda: 1.0), "timeout": 60}
    if when == "verifying":
        settings["verify"] = Greeted(timeout=60)
    reached = threading.Event()
    ended_at: list[float] = []

    def hook(event: events.Event) -> None:
        wanted = {
            "sleeping": "Waiting",
            "connecting": "Attempting",
            "verifying": "Attempting",
            "reading": "Connected",
        }
        if type(event).__name__ == wanted[when]:
            reached.set()

    async def scenario() -> None:
        made = shell.make(HERE, hooks=hook, **settings)
        call = closer(shell)

        def close() -> None:
            assert reached.wait(10)
            time.sleep(0.1)
            ended_at.append(time.monotonic())
            call(made.close)

        thread = threading.Thread(target=close, daemon=True)
        thread.start()
        async for connection in shell.loop(made):
            async with connection as stream:
                while await stream.receive():
                    pass
        assert made.state.name == "ENDED"

    with server_for(when):
        shell.run(scenario)
        assert time.monotonic() - ended_at[0] < 2


def closer(shell: Shell) -> Any:
    """Return the function with which another thread calls one in this shell's thread."""
    import asyncio

    if isinstance(shell, Blocking):
        return lambda function: function()
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        token = trio.lowlevel.current_trio_token()
        return token.run_sync_soon
    return loop.call_soon_threadsafe


def test_names_with_several_addresses_find_the_one_that_answers(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """::1 refuses, 127.0.0.1 answers; with nobody there, both errors are told."""

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


async def answer(value: Any) -> Any:
    return value


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
        async for connection in shell.connections(("two.example", PORT), happy_eyeballs_delay=0.05):
            async with connection as stream:
                return await stream.receive()
        return b""

    start = time.monotonic()
    with serving(greet):
        assert shell.run(scenario) == b"hello\n"
    assert time.monotonic() - start < 5


def test_a_self_connect_that_was_asked_for_is_found_reset_and_told(shell: Shell) -> None:
    """With the destination's port as source port it is certain; the loop sees it as nobody there, and goes on."""
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


def test_options_reach_the_socket(shell: Shell) -> None:
    async def scenario() -> dict[str, int]:
        async for connection in shell.connections(HERE, keepalive=60, user_timeout=2.5):
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
            "TCP_NODELAY": 1,
            "TCP_KEEPIDLE": 30,
            "TCP_KEEPINTVL": 10,
            "TCP_KEEPCNT": 3,
            "TCP_USER_TIMEOUT": 2500,
            "SO_KEEPALIVE": 1,
        }


def test_a_connection_that_is_not_entered_is_closed_by_the_next(shell: Shell) -> None:
    async def scenario() -> int:
        count = 0
        made = shell.make(HERE, backoff=FAST)
        async for _ in shell.loop(made):
            count += 1
            if count == 3:
                made.close()
        return count

    with serving(lambda sock: sock.recv(10)):
        assert shell.run(scenario) == 3


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"timeout": None}, TypeError),
        ({"no_such_option": 1}, TypeError),
        ({"hooks": [1]}, TypeError),
        ({"verify": "redis"}, TypeError),
        ({"retry": 3}, TypeError),
        ({"server_hostname": "db"}, ValueError),
        ({"keepalive": 1}, ValueError),
        ({"user_timeout": -1}, ValueError),
        ({"happy_eyeballs_delay": -1}, ValueError),
        ({"max_attempts": 0}, ValueError),
    ],
)
def test_settings_that_cannot_work_are_told_at_the_call(
    shell: Shell, settings: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        shell.make(HERE, **settings)


def test_a_hook_that_fails_does_not_end_the_loop(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: events.Event) -> None:
        raise RuntimeError("broken hook")

    async def scenario() -> Any:
        async for connection in shell.connections(HERE, hooks=broken):
            async with connection as stream:
                return await stream.receive()
        return b""

    with serving(greet):
        assert shell.run(scenario) == b"hello\n"
    assert "broken hook" in caplog.text
