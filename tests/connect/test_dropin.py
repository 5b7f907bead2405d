"""The blocking call is the socket module's, but for the guard: arguments, timeouts, errors, what is closed."""

from __future__ import annotations

import inspect
import socket
import threading
import time

import pytest

import tailbite
from support.listeners import wait_for_client
from support.server import no_socket_left
from support.trap import PORT


def test_the_signature_begins_as_the_socket_modules() -> None:
    theirs = inspect.signature(socket.create_connection).parameters
    ours = inspect.signature(tailbite.create_connection).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    assert all(ours[name].kind == parameter.kind for name, parameter in theirs.items())
    assert ours["timeout"].default is theirs["timeout"].default


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("timeout", [None, 0.5, 7])
def test_the_timeout_is_set_on_the_socket(timeout: float | None) -> None:
    with socket.create_server(("127.0.0.1", PORT)):
        with tailbite.create_connection(("127.0.0.1", PORT), timeout) as sock:
            assert sock.gettimeout() == timeout
        with tailbite.create_connection(("127.0.0.1", PORT)) as sock:
            assert sock.gettimeout() is None
        socket.setdefaulttimeout(3)
        try:
            with tailbite.create_connection(("127.0.0.1", PORT)) as sock:
                assert sock.gettimeout() == 3
        finally:
            socket.setdefaulttimeout(None)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("function", [socket.create_connection, tailbite.create_connection])
@pytest.mark.parametrize(
    ("address", "options", "error"),
    [
        (("127.0.0.1", PORT), {}, ConnectionRefusedError),
        (("localhost", PORT), {}, ConnectionRefusedError),
        (("no-such-name.invalid", PORT), {}, socket.gaierror),
        (("127.0.0.1", "no-such-service"), {}, socket.gaierror),
        (("127.0.0.1", 70000), {}, ConnectionRefusedError),  # glibc takes the port modulo 65536
        (("127.0.0.1", PORT), {"source_address": ("192.0.2.7", 0)}, OSError),
        (("127.0.0.1", PORT), {"all_errors": True}, ExceptionGroup),
    ],
)
def test_the_errors_are_the_same(
    function: object, address: tuple[str, int], options: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        function(address, **options)  # type: ignore[operator]


@pytest.mark.usefixtures("network")
def test_a_timeout_ends_the_wait_and_closes_the_socket() -> None:
    """A server that never accepts, its backlog full: the handshake is not answered."""
    here = ("127.0.0.1", PORT)
    with socket.create_server(here, backlog=0) as server, socket.create_connection(here), no_socket_left():
        wait_for_client(server)
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            tailbite.create_connection(here, timeout=0.2)
        assert 0.1 < time.monotonic() - start < 60  # a SYN that is not answered waits for minutes


@pytest.mark.usefixtures("network")
def test_no_descriptor_is_lost_whatever_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    with no_socket_left():
        for options in ({}, {"timeout": -1}, {"source_address": ("192.0.2.7", 0)}, {"source_address": ("", PORT)}):
            with pytest.raises((OSError, ValueError)):
                tailbite.create_connection(("127.0.0.1", PORT), **options)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    class Interrupted(socket.socket):
        connect = interrupted

    monkeypatch.setattr(socket, "socket", Interrupted)
    with no_socket_left(), pytest.raises(KeyboardInterrupt):
        tailbite.create_connection(("127.0.0.1", PORT))


@pytest.mark.usefixtures("network")
def test_many_threads_at_once() -> None:
    """The remembered facts are shared; no lock is needed, and no thread is connected to itself."""
    wrong: list[object] = []

    def dial() -> None:
        for _ in range(500):
            try:
                tailbite.create_connection(("127.0.0.1", PORT))
            except tailbite.SelfConnectError as error:
                wrong.append(error)
            except ConnectionRefusedError:
                continue

    threads = [threading.Thread(target=dial) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
