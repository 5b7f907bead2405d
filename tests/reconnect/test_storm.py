"""A storm: many clients hammer a dead port while its server, without SO_REUSEADDR, starts and stops and starts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import tailbite
import tailbite.aio
import tailbite.anyio
from support.guarded import wait_until
from support.trap import PORT, leftovers
from tailbite.core.ports import PortRange
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range
from tailbite.reconnect import events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = ("127.0.0.1", PORT)
CLIENTS = 50  # of each shell
STARTS = 20
DANGER_ZONE = PortRange(PORT, PORT + 599)  # wide enough for every client's connection, small enough to be dangerous
EVERY_10_MS = tailbite.Backoff(0.01, 0.01, 1, draw=lambda: 1.0)

pytestmark = pytest.mark.usefixtures("network")


class Weather:
    """The clients' events during the storm."""

    def __init__(self) -> None:
        self.listening_since = float("inf")
        self.connected: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.late: list[str] = []
        self.refused_since: set[str] = set()
        self._began: dict[str, float] = {}
        self._lock = threading.Lock()

    def hook(self, name: str) -> Callable[[events.Event], None]:
        def count_event(event: events.Event) -> None:
            with self._lock:
                self.counts[type(event).__name__] += 1
                if isinstance(event, events.Refused):
                    self.refused_since.add(name)
            match event:
                case events.Attempting():
                    self._began[name] = time.monotonic()
                case events.Connected():
                    self.connected.add(name)
                case events.Lost():
                    self.connected.discard(name)
                case events.Refused() if self._began[name] > self.listening_since:
                    self.late.append(f"{name} was refused by a listening server: {event.error}")
                case events.Waiting(seconds=seconds) if seconds > 0.0101:
                    self.late.append(f"{name} waits for {seconds} s")

        return count_event

    def wait_until_everybody_was_refused(self, number: int) -> None:
        """A client that has not noticed yet that its server stopped must not count as one of the next server."""
        self.refused_since.clear()
        wait_until(lambda: len(self.refused_since) == number, "everybody was refused", seconds=90)
        assert self.connected == set()


def server(weather: Weather, number: int) -> tuple[bool, bool]:
    """Start once, wait until everybody is there, stop. Returns whether it could bind, and whether everybody came."""
    accepted: list[socket.socket] = []
    with socket.socket() as listener:
        try:
            listener.bind(HERE)
            listener.listen(4 * number)
        except OSError:
            return False, False
        weather.listening_since = time.monotonic()
        listener.settimeout(0.01)
        deadline = time.monotonic() + 90
        while len(weather.connected) < number and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                accepted.append(listener.accept()[0])
        came = len(weather.connected) == number
        weather.listening_since = float("inf")
    for sock in accepted:
        abort(sock)  # a stop that leaves TIME-WAIT on its own port would keep any server from binding
    return True, came


@contextlib.contextmanager
def running(threads: list[threading.Thread], enders: list[Callable[[], object]]) -> Iterator[None]:
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for end in enders:
            end()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)


@contextlib.contextmanager
def storm(weather: Weather) -> Iterator[None]:
    """50 clients of each shell, in the namespace of this thread."""
    settings: dict[str, Any] = {"backoff": EVERY_10_MS, "healthy_after": 0.0, "timeout": 60.0}
    blocking = [
        tailbite.connections(HERE, hooks=weather.hook(f"sync {number}"), **settings) for number in range(CLIENTS)
    ]
    enders: list[Callable[[], object]] = [loop.close for loop in blocking]

    def read_sync(loop: Any) -> None:
        for connection in loop:
            with connection as sock:
                sock.recv(1)

    async def read_asyncio(number: int) -> None:
        async for connection in tailbite.aio.connections(*HERE, hooks=weather.hook(f"asyncio {number}"), **settings):
            async with connection as (reader, _):
                await reader.read(1)

    async def all_asyncio() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(read_asyncio(number)) for number in range(CLIENTS)]
                running = asyncio.get_running_loop()
                enders.append(lambda: running.call_soon_threadsafe(lambda: [task.cancel() for task in tasks]))

    async def read_trio(number: int) -> None:
        async for connection in tailbite.anyio.connections(*HERE, hooks=weather.hook(f"trio {number}"), **settings):
            async with connection as stream:
                with contextlib.suppress(anyio.EndOfStream):
                    await stream.receive(1)

    async def all_trio() -> None:
        import trio

        async with anyio.create_task_group() as group:
            for number in range(CLIENTS):
                group.start_soon(read_trio, number)
            token = trio.lowlevel.current_trio_token()
            enders.append(lambda: token.run_sync_soon(group.cancel_scope.cancel))

    threads = [threading.Thread(target=read_sync, args=(loop,)) for loop in blocking]
    threads.append(threading.Thread(target=lambda: asyncio.run(all_asyncio())))
    threads.append(threading.Thread(target=lambda: anyio.run(all_trio, backend="trio")))
    with running(threads, enders):
        yield


def test_every_start_binds_at_the_first_try_and_everybody_is_connected_within_the_backoff() -> None:
    write_ephemeral_range(DANGER_ZONE)
    weather = Weather()
    with storm(weather):
        outcomes = []
        for _ in range(STARTS):
            weather.wait_until_everybody_was_refused(3 * CLIENTS)
            outcomes.append(server(weather, 3 * CLIENTS))
        weather.wait_until_everybody_was_refused(3 * CLIENTS)
    assert outcomes == [(True, True)] * STARTS
    assert weather.late == []
    assert weather.counts["SelfConnected"] == 0
    assert weather.counts["Connected"] >= STARTS * 3 * CLIENTS
    assert weather.counts["Refused"] >= STARTS * 3 * CLIENTS
    assert leftovers() == []


def test_the_same_storm_with_plain_sockets_keeps_the_server_from_binding() -> None:
    """The control: what every client does without a guard, in the same namespace and range."""
    write_ephemeral_range(DANGER_ZONE)
    stop = threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            with socket.socket() as sock:
                sock.settimeout(0.5)
                with contextlib.suppress(OSError):
                    sock.connect(HERE)
                    while sock.recv(1):
                        pass
            stop.wait(0.01)

    threads = [threading.Thread(target=hammer) for _ in range(3 * CLIENTS)]
    for thread in threads:
        thread.start()
    failures = 0
    deadline = time.monotonic() + 90
    try:
        while not failures and time.monotonic() < deadline:
            with socket.socket() as listener:
                try:
                    listener.bind(HERE)
                except OSError:
                    failures += 1
            time.sleep(0.05)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert failures == 1
