"""``close()`` of a loop, from anywhere: it ends at once, and is never lost."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

import tailbite
from support.server import echo, server_for, serving
from support.shells import ALL, ASYNCHRONOUS, Blocking, Shell, name_of
from support.trap import PORT
from tailbite import events

if TYPE_CHECKING:
    import socket

HERE = ("127.0.0.1", PORT)
SLOW = tailbite.Backoff(60, 60, draw=lambda: 1.0)
FAST = tailbite.Backoff(0.001, 0.001)
SOON = 20.0  # an end that is missed comes after a minute, or never
EVERY = (ALL[0], *ASYNCHRONOUS)

pytestmark = pytest.mark.usefixtures("network", "nothing_left")


def silent(sock: socket.socket) -> None:
    sock.recv(1)


async def receive_all(shell: Shell, made: Any) -> int:
    """Use the connections until the loop ends; returns how many there were."""
    count = 0
    async for connection in shell.loop(made):
        async with connection as stream:
            count += 1
            while await stream.receive():
                pass
    return count


@pytest.mark.parametrize("shell", EVERY, ids=name_of)
@pytest.mark.parametrize(
    ("kind", "connections"),
    [
        (events.Attempting, 0),
        (events.Verified, 0),
        (events.Connected, 0),
        (events.Lost, 1),
        (events.Refused, 0),
        (events.Waiting, 0),
        (events.VerifyFailed, 0),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_hook_closes_the_loop_and_no_connection_is_delivered_after_that(
    shell: Shell, kind: type[events.Event], connections: int
) -> None:
    seen: list[type[events.Event]] = []

    def hook(event: events.Event) -> None:
        seen.append(type(event))
        if type(event) is kind:
            made.close()
            made.close()

    def greet(sock: socket.socket) -> None:
        sock.sendall(b"wrong" if kind is events.VerifyFailed else b"hello")
        if kind is not events.Lost:
            sock.recv(1)

    made: Any = shell.make(HERE, backoff=SLOW, hooks=hook, verify=tailbite.verify.banner(b"hello"))
    with contextlib.ExitStack() as stack:
        if kind not in (events.Refused, events.Waiting):
            stack.enter_context(serving(greet))
        start = time.monotonic()
        assert shell.run(lambda: receive_all(shell, made)) == connections
        assert time.monotonic() - start < SOON
    assert seen.count(kind) == 1
    assert made.state.name == "ENDED"
    assert made.is_closed
    assert seen.count(events.Connected) == seen.count(events.Lost)  # what a hook counts as open is open


@pytest.mark.parametrize("shell", EVERY, ids=name_of)
def test_a_close_from_another_thread_is_never_lost(shell: Shell) -> None:
    """At any moment of the first millisecond, against a server that accepts and says nothing."""

    def race(after: float) -> None:
        made = shell.make(HERE, timeout=60)
        thread = threading.Thread(target=lambda: shell.run(lambda: receive_all(shell, made)), daemon=True)
        thread.start()
        end = time.perf_counter() + after
        while time.perf_counter() < end:
            pass
        made.close()
        thread.join(SOON)
        assert not thread.is_alive(), f"a user waits forever after a close() {after * 1000:.3f} ms after the start"

    with serving(silent):
        for step in range(40 if shell is ALL[0] else 15):
            race(step * (0.00004 if shell is ALL[0] else 0.0005))


@pytest.mark.parametrize("shell", EVERY, ids=name_of)
@pytest.mark.parametrize("when", ["sleeping", "connecting", "verifying", "reading"])
def test_a_thread_closes_a_loop_whatever_it_does(shell: Shell, when: str) -> None:
    reached = threading.Event()
    wanted = {"sleeping": events.Waiting, "reading": events.Connected}.get(when, events.Attempting)

    def hook(event: events.Event) -> None:
        if isinstance(event, wanted):
            reached.set()

    verify = tailbite.verify.banner(b"hello", timeout=60) if when == "verifying" else None
    made = shell.make(HERE, backoff=SLOW, timeout=60, verify=verify, hooks=hook)

    def close() -> None:
        assert reached.wait(SOON)
        time.sleep(0.05)  # into the wait; where it is earlier, another test has it
        made.close()
        made.close()

    closer = threading.Thread(target=close)
    with server_for(when):
        closer.start()
        start = time.monotonic()
        shell.run(lambda: receive_all(shell, made))
        closer.join()
        assert time.monotonic() - start < SOON


@pytest.mark.parametrize("shell", ASYNCHRONOUS, ids=name_of)
@pytest.mark.parametrize("when", ["sleeping", "connecting", "reading"])
def test_a_task_closes_twice_with_any_distance_between(shell: Shell, when: str) -> None:
    async def scenario(rounds: int) -> None:
        made = shell.make(HERE, backoff=SLOW, timeout=60)
        async with anyio.create_task_group() as group:
            group.start_soon(receive_all, shell, made)
            await anyio.sleep(0.02)
            made.close()
            for _ in range(rounds):
                await anyio.lowlevel.checkpoint()
            made.close()

    async def guarded(rounds: int) -> None:
        with anyio.fail_after(SOON):
            await scenario(rounds)

    with server_for(when):
        for rounds in range(6):
            shell.run(functools.partial(guarded, rounds))


SIGNALLED = """
import asyncio, contextlib, signal, sys, tailbite, tailbite.aio, tailbite.anyio
import faulthandler; faulthandler.dump_traceback_later(50, exit=True)
def hook(event):
    print(type(event).__name__, flush=True)
    if {in_hook} and type(event).__name__ == {awaited!r}: signal.raise_signal(signal.SIGUSR1)
settings = dict(backoff=tailbite.Backoff(60, 60, draw=lambda: 1.0), timeout=60, hooks=hook)
shell, host, port = {shell!r}, "127.0.0.1", {port}
signal.signal(signal.SIGUSR1, lambda *_: (made.close(), made.close()))
if shell == "Connector":
    made = tailbite.Connector((host, port), **settings)
    try:
        sock = made.get()
        with contextlib.suppress(OSError):  # the handler closed the descriptor that recv(2) waits with
            sock.recv(1)
        made.get()
    except ConnectionAbortedError as error:
        print(error)
elif shell == "sync":
    made = tailbite.connections((host, port), **settings)
    for connection in made:
        with connection as sock:
            sock.recv(1)
else:
    backend = shell.rpartition(" ")[2]
    made = (tailbite.anyio if shell.startswith("anyio") else tailbite.aio).connections(host, port, **settings)
    async def main():
        async for connection in made:
            async with connection as stream:
                await (stream.receive(1) if shell.startswith("anyio") else stream.reader.read(1))
    if shell.startswith("anyio"):
        import anyio
        options = {{"use_uvloop": True}} if backend == "uvloop" else {{}}
        def run():
            anyio.run(main, backend="trio" if backend == "trio" else "asyncio", backend_options=options)
    elif backend == "uvloop":
        import uvloop
        run = lambda: uvloop.run(main())
    else:
        run = lambda: asyncio.run(main())
    run()
print("ended", made.state.name)
"""


@pytest.mark.parametrize("shell", ["sync", "Connector", *(shell.name for shell in ASYNCHRONOUS)])
@pytest.mark.parametrize("when", ["sleeping", "connecting", "reading", "in a hook"])
def test_a_signal_handler_closes_the_loop(shell: str, when: str) -> None:
    if "uvloop" in shell:
        pytest.importorskip("uvloop")
    awaited = {"sleeping": "Waiting", "reading": "Connected"}.get(when, "Attempting")
    program = SIGNALLED.format(shell=shell, port=PORT, awaited=awaited, in_hook=when == "in a hook")
    with (
        server_for("reading" if when == "in a hook" else when),
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        said = ""
        while said.strip() != awaited:
            said = process.stdout.readline()
            assert said, "it has ended"
        if when != "in a hook":
            time.sleep(0.1)  # into the wait; a signal that comes earlier must do as well
            process.send_signal(signal.SIGUSR1)
        rest = process.stdout.read()  # faulthandler ends a program that hangs
        assert process.wait(SOON) == 0
    assert rest.splitlines()[-1] == f"ended {'IDLE' if (shell, when) == ('Connector', 'reading') else 'ENDED'}"
    assert ("the connector was closed" in rest) == (shell == "Connector")


@pytest.mark.parametrize("shell", EVERY, ids=name_of)
def test_a_connection_that_is_not_entered_is_closed(shell: Shell) -> None:
    """``for connection in connections(...): break`` leaves nothing to the garbage collector (no ResourceWarning)."""

    async def scenario() -> None:
        made = shell.make(HERE)
        if isinstance(shell, Blocking):
            for _ in made:
                break
        else:
            async for _ in made:
                break
        assert made.state.name == "CONNECTED"
        del _
        if not isinstance(shell, Blocking):
            with anyio.fail_after(SOON):
                while made.state.name != "IDLE":
                    await anyio.lowlevel.checkpoint()
        assert made.state.name == "IDLE"

    with serving(silent):
        shell.run(scenario)


@pytest.mark.parametrize("shell", EVERY, ids=name_of)
def test_a_closed_loop_stays_closed(shell: Shell) -> None:
    async def scenario() -> int:
        made = shell.make(HERE, backoff=FAST)
        made.close()
        made.close()
        return await receive_all(shell, made)

    with serving(echo):
        assert shell.run(scenario) == 0


def test_what_was_awaited_when_the_event_loop_ended_can_be_closed_afterwards() -> None:
    made = tailbite.aio.connections(*HERE, backoff=SLOW)

    async def scenario() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                async for _ in made:
                    raise AssertionError

    asyncio.run(scenario())
    made.close()
    made.close()
    assert made.is_closed
