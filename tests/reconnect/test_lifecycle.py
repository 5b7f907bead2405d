"""Lives of a loop that are not straight: given up and used again, in two places, in two event loops, thrown away."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import tailbite
import tailbite.aio
import tailbite.anyio
import tailbite.dial.sync
from support.guarded import wait_until
from support.server import echo, serving
from support.shells import ALL, ASYNCHRONOUS, Blocking, Shell, name_of
from support.trap import PORT
from tailbite import events
from tailbite.testing import Accept, FakeNetwork

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Iterator

HERE = ("127.0.0.1", PORT)
FAST = tailbite.Backoff(0.001, 0.001)
SLOW = tailbite.Backoff(60, 60, draw=lambda: 1.0)
SOON = 20.0
EVERY = (ALL[0], *ASYNCHRONOUS)

pytestmark = pytest.mark.usefixtures("network", "nothing_left")


@pytest.fixture
def collected() -> Iterator[None]:
    """Garbage of an event loop that has ended is collected in the test that made it, and in no other."""
    yield
    gc.collect()


async def answer_of(shell: Shell, made: Any) -> bytes:
    """Send something over the next connection, and return the answer."""
    async for connection in shell.loop(made):
        async with connection as stream:
            await stream.send(b"hello")
            return bytes(await stream.receive())
    return b"the loop has ended"


def setter(event: threading.Event, kind: type[events.Event]) -> Callable[[events.Event], None]:
    """Return a hook that sets ``event`` at the first event of a kind."""

    def hook(happened: events.Event) -> None:
        if isinstance(happened, kind):
            event.set()

    return hook


async def first_of(shell: Shell, made: Any) -> Any:
    """Iterate as a user does (which ``shell.loop()`` does not), and return the first connection."""
    if isinstance(shell, Blocking):
        for connection in made:
            return connection
    else:
        async for connection in made:
            return connection
    return None


@pytest.mark.parametrize("shell", EVERY, ids=name_of)
@pytest.mark.parametrize(
    "limits", [{"max_attempts": 2}, {"deadline": 2.5}, {"max_attempts": 3, "deadline": 60}], ids=str
)
def test_a_loop_that_gave_up_begins_a_new_outage_when_it_is_iterated_over_again(
    shell: Shell, limits: dict[str, Any]
) -> None:
    """Under a virtual clock: attempts at 0, 1 and 2 s, and shortly before the end of a deadline."""

    async def scenario() -> None:
        made = shell.make(("db", 1), backoff=tailbite.Backoff(1, 1, draw=lambda: 1.0), **limits)
        for _ in range(2):
            with pytest.raises(tailbite.GaveUpError) as gave_up:
                await first_of(shell, made)
            assert gave_up.value.total == limits.get("max_attempts", 4)
        network.script("db", 1, Accept())
        connection = await first_of(shell, made)
        assert connection is not None
        assert made.state.name == "CONNECTED"
        made.close()
        assert await first_of(shell, made) is None  # closed, and stays so

    with FakeNetwork() as network:
        shell.run(scenario)


@pytest.mark.parametrize("shell", EVERY, ids=name_of)
def test_a_hook_that_asks_for_the_next_connection_gets_an_error_and_the_loop_goes_on(shell: Shell) -> None:
    errors: list[BaseException] = []

    def hook(event: events.Event) -> None:
        following = made.__next__ if isinstance(shell, Blocking) else lambda: made.__anext__().send(None)
        if not isinstance(event, events.Lost):
            try:
                following()
            except RuntimeError as error:
                errors.append(error)

    made = shell.make(HERE, hooks=hook)
    with serving(echo):
        assert shell.run(lambda: answer_of(shell, made)) == b"hello"
    assert len(errors) == 2  # Attempting, Connected
    assert all("in one place only" in str(error) for error in errors)


@pytest.mark.parametrize("shell", ASYNCHRONOUS, ids=name_of)
def test_the_second_of_two_tasks_gets_an_error_and_the_first_its_connection(shell: Shell) -> None:
    made = shell.make(HERE, backoff=SLOW)

    async def scenario() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(first_of, shell, made)
            with anyio.fail_after(SOON):
                while made.state.name != "WAITING":
                    await anyio.lowlevel.checkpoint()
            with pytest.raises(RuntimeError, match="in one place only"):
                await made.__anext__()
            assert made.state.name == "WAITING"
            made.close()

    shell.run(scenario)


def test_the_second_of_two_threads_gets_an_error_and_the_first_its_connection() -> None:
    waiting = threading.Event()
    made = tailbite.connections(HERE, backoff=SLOW, hooks=setter(waiting, events.Waiting))
    thread = threading.Thread(target=lambda: next(made, None))
    thread.start()
    assert waiting.wait(SOON)
    with pytest.raises(RuntimeError, match="in one place only"):
        next(made)
    assert made.state.name == "WAITING"
    made.close()
    thread.join(SOON)
    assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("shell", ASYNCHRONOUS, ids=name_of)
@pytest.mark.parametrize("is_entered", [True, False], ids=["entered", "not entered"])
def test_a_loop_goes_on_in_another_event_loop_and_closes_the_connection_of_the_first(
    shell: Shell, is_entered: bool
) -> None:
    times: list[float] = []
    made = shell.make(HERE, backoff=FAST, hooks=lambda event: times.append(event.at))
    kept: list[Any] = []
    ended: list[bool] = []

    async def first() -> None:
        connection = await first_of(shell, made)
        kept.append(connection)
        if is_entered:
            kept.append(await connection.__aenter__())

    def handle(sock: socket.socket) -> None:
        echo(sock)
        ended.append(True)

    with serving(handle) as accepted:
        shell.run(first)
        assert shell.run(lambda: answer_of(shell, made)) == b"hello"
        assert len(accepted) == 2
        wait_until(lambda: len(ended) == 2, "both connections have ended")
        kept.clear()
        made.close()
    assert times == sorted(times)
    assert times[-1] - times[0] < 1000  # trio's clock begins at a random time, in each run


@pytest.mark.parametrize("shell", [shell for shell in ASYNCHRONOUS if "trio" not in shell.name], ids=name_of)
@pytest.mark.parametrize("how", ["running", "stopped", "closed"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.usefixtures("collected")
def test_a_coroutine_that_is_closed_in_its_block_ends_the_connection_without_an_error(shell: Shell, how: str) -> None:
    """GeneratorExit: nothing can be awaited there, and perhaps no event loop is running."""
    made = shell.make(HERE, backoff=SLOW)
    ended = threading.Event()

    def handle(sock: socket.socket) -> None:
        echo(sock)
        ended.set()

    async def use() -> None:
        async for connection in made:
            async with connection as stream:
                await (stream.reader.read(1) if hasattr(stream, "reader") else stream.receive())

    def start(coroutine: Coroutine[Any, Any, None]) -> asyncio.AbstractEventLoop:
        makes_loop = getattr(shell, "makes_loop", None) or asyncio.new_event_loop
        loop: asyncio.AbstractEventLoop = makes_loop()
        loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending"
        task = loop.create_task(coroutine)

        async def until_connected() -> None:
            with anyio.fail_after(SOON):
                while made.state.name != "CONNECTED":
                    await anyio.lowlevel.checkpoint()
            for _ in range(5):  # into the read
                await anyio.lowlevel.checkpoint()

        loop.run_until_complete(until_connected())
        del task
        return loop

    async def close() -> None:
        coroutine.close()

    with serving(handle):
        coroutine = use()
        loop = start(coroutine)
        if how == "running":
            loop.run_until_complete(close())
        else:
            if how == "closed":
                loop.close()
            coroutine.close()
        assert made.state.name == "IDLE"
        if how == "stopped":
            loop.run_until_complete(asyncio.sleep(0))
        if how != "closed":
            loop.run_until_complete(anyio.to_thread.run_sync(ended.wait, SOON))
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
        assert ended.wait(SOON)


def test_a_name_is_resolved_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a limit of threads, and in a function of :mod:`atexit` (Python 3.12)."""

    class Refused(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with serving(echo):
        monkeypatch.setattr(tailbite.dial.sync, "threading", SimpleNamespace(Thread=Refused))
        with tailbite.Connector(("localhost", PORT), happy_eyeballs_delay=0, read_timeout=SOON) as connector:
            connector.get().sendall(b"hello")
            assert connector.get().recv(10) == b"hello"


def lost_in_a_thread(connector: tailbite.Connector, *arguments: Any) -> None:
    thread = threading.Thread(target=connector.lost, args=arguments)
    thread.start()
    thread.join(SOON)
    assert not thread.is_alive()


def test_lost_never_waits_for_a_get_that_connects() -> None:
    waiting = threading.Event()
    connector = tailbite.Connector(HERE, backoff=SLOW, hooks=setter(waiting, events.Waiting))

    def get() -> None:
        with contextlib.suppress(ConnectionAbortedError):
            connector.get()

    getting = threading.Thread(target=get)
    getting.start()
    assert waiting.wait(SOON)
    lost_in_a_thread(connector, OSError("seen before"))
    assert connector.state.name == "WAITING"
    connector.close()
    getting.join(SOON)
    assert not getting.is_alive()


def test_the_loss_of_an_old_socket_leaves_the_new_one_alone() -> None:
    with serving(echo), tailbite.Connector(HERE, backoff=FAST) as connector:
        old = connector.get()
        old.close()
        new = connector.get()
        lost_in_a_thread(connector, OSError("of the old one"), old)
        assert connector.get() is new
        lost_in_a_thread(connector, OSError("of the new one"), new)
        assert new.fileno() == -1
        assert connector.get() is not new
