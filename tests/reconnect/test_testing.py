"""``tailbite.testing``: a played network, no delays, and a check that finds unguarded connectors."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

import tailbite
from support.ping import Ping
from tailbite import events
from tailbite.testing import Accept, FakeNetwork, Refuse, SelfConnect, Silence, check_connector, set_testing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.shells import Shell

SLOW = tailbite.Backoff(100, 100, 1, draw=lambda: 1.0)


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 20, "somebody waited"


def test_a_script_is_played_under_a_virtual_clock(shell: Shell) -> None:
    seen: list[events.Event] = []

    async def scenario() -> Any:
        async for connection in shell.connections(("db", 5432), backoff=SLOW, timeout=7, hooks=seen.append):
            async with connection as stream:
                data = await stream.receive()
                await stream.send(b"thanks")
                return data
        return b""

    with FakeNetwork() as network:
        network.script("db", 5432, Refuse(after=1), Silence(), SelfConnect(), Accept(sends=b"hello\n", after=2))
        assert shell.run(scenario) == b"hello\n"
        assert network.peers[0].recv(100) == b"thanks"
    kinds = [type(event).__name__ for event in seen if not isinstance(event, events.Attempting | events.Waiting)]
    assert kinds == ["Refused", "Refused", "SelfConnected", "Connected", "Lost"]
    assert network.now() == 1 + 100 + 7 + 100 + 0 + 100 + 2
    assert [at for at, _ in network.attempts] == [0, 101, 208, 308]


def test_a_server_that_closes_comes_again(shell: Shell) -> None:
    async def scenario() -> list[bytes]:
        heard = []
        async for connection in shell.connections(("db", 5432), backoff=SLOW):
            async with connection as stream:
                while data := await stream.receive():
                    heard.append(data)
            if len(heard) == 2:
                break
        return heard

    with FakeNetwork() as network:
        network.script("db", 5432, Accept(b"one", then="close"), Accept(b"two", then="close"))
        assert shell.run(scenario) == [b"one", b"two"]
        assert network.now() == 100


def test_verifiers_are_played_too(shell: Shell) -> None:
    async def scenario() -> Any:
        async for connection in shell.connections(("db", 5432), backoff=SLOW, verify=Ping()):
            async with connection as stream:
                return await stream.receive()
        return b""

    with FakeNetwork() as network:
        network.script(
            "db",
            5432,
            Accept(),
            Accept(answers={b"PING\n": b"PING\n"}),
            Accept(then="close"),
            Accept(answers={b"PING\n": b"PONG\nwelcome"}),
        )
        assert shell.run(scenario) == b"welcome"
        assert network.now() == 300 + Ping().timeout


def test_without_a_script_everybody_is_refused(shell: Shell) -> None:
    async def scenario() -> None:
        async for _ in shell.connections(("nobody", 1), max_attempts=5):
            raise AssertionError

    with FakeNetwork() as network, pytest.raises(tailbite.GaveUpError, match="Connection refused: nobody:1"):
        shell.run(scenario)
    assert len(network.attempts) == 5


@pytest.mark.usefixtures("network")
def test_set_testing_removes_delays_and_caps_attempts(shell: Shell) -> None:
    async def scenario() -> None:
        async for _ in shell.connections(("127.0.0.1", 32246), backoff=SLOW):
            raise AssertionError

    with set_testing(max_attempts=4), pytest.raises(tailbite.GaveUpError) as gave_up:
        shell.run(scenario)
    assert gave_up.value.total == 4


def test_set_testing_can_be_switched_off_again() -> None:
    set_testing(max_attempts=1)
    set_testing(False)
    with FakeNetwork() as network:
        network.script("db", 1, Refuse(), Accept())
        next(tailbite.connections(("db", 1), backoff=SLOW)).__enter__().close()
        assert network.now() == 100


@pytest.mark.usefixtures("network")
def test_check_connector_passes_guarded_connectors() -> None:
    checks = check_connector(lambda host, port: tailbite.create_connection((host, port)))
    assert len(checks) == 24
    assert all(check.holds for check in checks)

    def through_a_loop(host: str, port: int) -> socket.socket:
        return next(tailbite.connections((host, port), max_attempts=1)).__enter__()

    check_connector(through_a_loop, attempts=20)


@pytest.mark.usefixtures("network")
def test_check_connector_finds_unguarded_ones() -> None:
    with pytest.raises(AssertionError, match="FAILS: it never connects to itself"):
        check_connector(lambda host, port: socket.create_connection((host, port)))

    def detect_and_close(host: str, port: int) -> socket.socket:
        sock = socket.create_connection((host, port))
        if sock.getsockname() == sock.getpeername():
            sock.close()
            raise ConnectionRefusedError
        return sock

    with pytest.raises(AssertionError, match="FAILS: it leaves nothing on the port") as failed:
        check_connector(detect_and_close)
    assert "holds: it never connects to itself" in str(failed.value)
    assert "FAILS: a server can bind the port" in str(failed.value)
