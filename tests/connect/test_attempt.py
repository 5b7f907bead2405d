"""Other systems, by a socket module that behaves as theirs: a self-connect is a refused connection there as well."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest

import tailbite
from support.trap import PORT, Trap, leftovers, server_can_bind
from tailbite.connect import attempt, facts

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"


class Macos(socket.socket):
    """macOS binds the socket to the destination's port, and then refuses to connect it (EINVAL)."""

    def connect(self, address: Any) -> None:
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.bind(("", PORT))
        raise OSError(errno.EINVAL, "Invalid argument")


class Invalid(socket.socket):
    """A connect that is refused for another reason with the same number."""

    def connect(self, address: Any) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")


@pytest.fixture
def _elsewhere(monkeypatch: pytest.MonkeyPatch, network: None) -> None:
    """Neither a range to read nor an option to set."""
    monkeypatch.setattr(attempt, "_LINUX", False)
    monkeypatch.setattr(facts, "_LINUX", False)
    monkeypatch.setattr(facts, "supports_local_port_range", lambda: False)
    monkeypatch.setattr(facts, "_known", {})
    Trap().set().control()


def by_socket() -> None:
    tailbite.create_connection((HOST, PORT), timeout=5)


def by_stream() -> None:
    async def call() -> None:
        await tailbite.open_connection(HOST, PORT)

    asyncio.run(call())


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("connect", [by_socket, by_stream])
def test_macos_refuses_a_self_connect_as_invalid_and_it_becomes_a_refusal(
    connect: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", Macos)
    with pytest.raises(tailbite.SelfConnectError) as refused:
        connect()
    assert refused.value.errno == errno.ECONNREFUSED
    assert refused.value.local == refused.value.remote == tailbite.Endpoint(HOST, PORT)
    monkeypatch.undo()
    assert leftovers() == []


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("connect", [by_socket, by_stream])
def test_another_invalid_argument_stays_what_it_is(
    connect: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", Invalid)
    with pytest.raises(OSError) as invalid:
        connect()
    assert invalid.value.errno == errno.EINVAL
    assert not isinstance(invalid.value, ConnectionRefusedError)


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("connect", [by_socket, by_stream])
def test_a_system_that_connects_a_socket_to_itself_as_windows_does(connect: Callable[[], None]) -> None:
    found = 0
    for _ in range(100):
        with pytest.raises(ConnectionRefusedError) as refused:
            connect()
        found += isinstance(refused.value, tailbite.SelfConnectError)
        assert server_can_bind()
    assert found > 10


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.usefixtures("network")
def test_a_cancelled_self_connect_is_reset() -> None:
    """A range that has just changed, and an interruption before the ports are compared: nothing may be left."""
    Trap().set()
    made = attempt.Attempt(socket.AF_INET, socket.SOCK_STREAM, 0, ("127.0.0.1", PORT))
    made.sock.setsockopt(socket.IPPROTO_IP, 51, 0)
    made.sock.bind((HOST, PORT))
    made.sock.connect((HOST, PORT))
    made.drop()
    assert leftovers() == []


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("connect", [by_socket, by_stream])
def test_a_socket_that_cannot_be_compared_is_reset_and_not_returned(
    monkeypatch: pytest.MonkeyPatch, connect: Callable[[], None]
) -> None:
    """The comparison may need memory or a descriptor; closing the socket would leave a TIME-WAIT for a minute."""

    def fail(_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(facts, "supports_local_port_range", lambda: False)
    monkeypatch.setattr(facts, "_known", {})
    monkeypatch.setattr(attempt, "abort_if_self_connected", fail)
    Trap().set()
    with pytest.raises(OSError) as error:
        connect()
    assert error.value.errno == errno.EMFILE
    assert leftovers() == []
    assert server_can_bind()
    Trap().control()
