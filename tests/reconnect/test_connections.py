"""``connections()`` in every shell: reconnects, verifies, gives up, ends at once; and leaks nothing."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

import tailbite
from support.greeting import Greeted, greet, names
from support.server import server_for, serving
from support.shells import Blocking, Shell
from support.trap import PORT, Trap, leftovers, server_can_bind
from tailbite.reconnect import events

HERE = ("127.0.0.1", PORT)
FAST = tailbite.Backoff(0.01, 0.05)

pytestmark = pytest.mark.usefixtures("network", "nothing_left")


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
    """In a process that has none left, the blocking loop continues when there are some again."""
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


def test_no_answer_is_a_timeout(shell: Shell) -> None:
    async def scenario() -> None:
        async for _ in shell.connections(HERE, timeout=0.2, backoff=FAST, max_attempts=2):
            raise AssertionError

    with socket.create_server(HERE, backlog=0), socket.create_connection(HERE):
        start = time.monotonic()
        with pytest.raises(tailbite.GaveUpError, match="did not answer in time"):
            shell.run(scenario)
        assert 0.4 <= time.monotonic() - start < 40


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
            assert reached.wait(60)
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
        assert time.monotonic() - ended_at[0] < 40


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


async def answer(value: Any) -> Any:
    return value


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
