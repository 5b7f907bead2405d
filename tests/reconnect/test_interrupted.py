"""Ctrl-C and cancellation end a loop at once, whatever it is doing, and leave no socket behind."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import tailbite
import tailbite.aio
import tailbite.anyio
from support.server import server_for
from support.trap import PORT, leftovers

HERE = ("127.0.0.1", PORT)
SLOW = tailbite.Backoff(60, 60, draw=lambda: 1.0)
SOON = 40.0  # an end that is missed comes after a minute
REACHED = {"sleeping": "WAITING", "connecting": "CONNECTING", "verifying": "VERIFYING", "reading": "CONNECTED"}

pytestmark = pytest.mark.usefixtures("network")

PROGRAM = """
import socket, sys, tailbite, tailbite.verify
def hook(event):
    print(type(event).__name__, flush=True)
if {resolves}:
    import time
    socket.getaddrinfo = lambda *_: time.sleep(60)  # a resolver that does not answer
slow = tailbite.Backoff(60, 60, draw=lambda: 1.0)
try:
    for connection in tailbite.connections(({host!r}, {port}), backoff=slow, timeout=60, verify={verify}, hooks=hook):
        with connection as sock:
            sock.recv(1)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("when", ["sleeping", "connecting", "resolving", "verifying", "reading"])
def test_ctrl_c_ends_the_blocking_loop_at_once(when: str) -> None:
    program = PROGRAM.format(
        host="no.example" if when == "resolving" else HERE[0],
        port=PORT,
        resolves=when == "resolving",
        verify="tailbite.verify.banner(b'hello', timeout=60)" if when == "verifying" else None,
    )
    awaited = {"sleeping": "Waiting", "reading": "Connected"}.get(when, "Attempting")
    with server_for(when):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process:
            while process.stdout.readline().strip() != awaited:
                assert process.poll() is None
            time.sleep(0.2)  # into the call; a signal that comes earlier must do as well
            process.send_signal(signal.SIGINT)
            assert process.wait(SOON) == 130


@pytest.mark.parametrize("shell", ["asyncio", "anyio on asyncio", "anyio on trio"])
@pytest.mark.parametrize("when", ["sleeping", "connecting", "verifying", "reading"])
def test_cancellation_ends_the_asynchronous_loops_at_once(shell: str, when: str) -> None:
    module = tailbite.aio if shell == "asyncio" else tailbite.anyio
    verify = tailbite.verify.banner(b"hello", timeout=60) if when == "verifying" else None

    async def use() -> None:
        async for connection in made:
            async with connection as stream:
                entered.append(stream)
                await anyio.sleep(60)

    entered: list[Any] = []
    made: Any = None

    async def scenario() -> None:
        nonlocal made
        made = module.connections(*HERE, backoff=SLOW, timeout=60, verify=verify)
        async with anyio.create_task_group() as group:
            group.start_soon(use)
            while made.state.name != REACHED[when] or bool(entered) != (when == "reading"):
                await anyio.lowlevel.checkpoint()  # the test's time limit ends a failure
            group.cancel_scope.cancel()
        assert made.state.name == ("IDLE" if when == "reading" else "ENDED")

    with server_for(when):
        start = time.monotonic()
        if shell == "asyncio":
            asyncio.run(scenario())
        else:
            anyio.run(scenario, backend=shell.rpartition(" ")[2])
        assert time.monotonic() - start < SOON
    assert [each for each in leftovers() if each.state == 2] == []  # TCP_SYN_SENT


def test_a_mock_clock_of_trio_is_the_loops_clock() -> None:
    """With trio's autojump clock a minute's backoff takes no time."""
    import trio.testing

    waited: list[float] = []

    async def scenario() -> None:
        with contextlib.suppress(tailbite.GaveUpError):
            async for _ in tailbite.anyio.connections(*HERE, backoff=SLOW, max_attempts=10):
                raise AssertionError
        waited.append(trio.current_time())

    start = time.monotonic()
    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0.1))
    assert time.monotonic() - start < SOON
    assert waited[0] == pytest.approx(9 * 60, abs=1)
