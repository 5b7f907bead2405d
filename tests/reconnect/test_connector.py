"""``tailbite.Connector``: one connection, whenever it is asked for."""

from __future__ import annotations

import select
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import tailbite
from support.server import serving
from support.trap import PORT
from tailbite.testing import Accept, FakeNetwork, Refuse

if TYPE_CHECKING:
    import socket
    import ssl
    from types import FrameType

HERE = ("127.0.0.1", PORT)
FAST = tailbite.Backoff(0.01, 0.05)

pytestmark = pytest.mark.usefixtures("network")


def echo(sock: socket.socket) -> None:
    while data := sock.recv(100):
        sock.sendall(data.upper())


def wait_for_end(sock: socket.socket) -> None:
    """Wait for the server's FIN: loopback delivers in a softirq, perhaps later."""
    assert select.select([sock], [], [], 60)[0]


def test_the_same_socket_as_long_as_it_lives_then_another_one() -> None:
    with tailbite.Connector(HERE, backoff=FAST, read_timeout=60) as connector:
        with serving(echo):
            first = connector.get()
            first.sendall(b"one")
            assert first.recv(100) == b"ONE"
            assert connector.get() is first
            assert connector.state.name == "CONNECTED"
        wait_for_end(first)
        with serving(echo):
            second = connector.get()
            assert second is not first
            assert first.fileno() == -1
            second.sendall(b"two")
            assert second.recv(100) == b"TWO"
            second.close()
            assert connector.get().fileno() != -1
    assert connector.state.name == "IDLE"
    with pytest.raises(ConnectionAbortedError, match="closed"):
        connector.get()


def test_a_loss_that_the_caller_found_is_told() -> None:
    seen: list[tailbite.events.Event] = []
    with serving(echo), tailbite.Connector(HERE, backoff=FAST, hooks=seen.append) as connector:
        first = connector.get()
        connector.lost(TimeoutError("no answer"))
        connector.lost()  # nothing to lose
        assert connector.get() is not first
    lost = [event for event in seen if isinstance(event, tailbite.events.Lost)]
    assert [str(event.error) for event in lost] == ["no answer", "None"]


def test_it_gives_up_as_the_loop_does() -> None:
    with tailbite.Connector(HERE, backoff=FAST, max_attempts=2) as connector, pytest.raises(tailbite.GaveUpError):
        connector.get()


def test_after_giving_up_the_next_get_begins_a_new_outage() -> None:
    with tailbite.Connector(HERE, backoff=FAST, max_attempts=2, read_timeout=60) as connector:
        for _ in range(2):
            with pytest.raises(tailbite.GaveUpError) as gave_up:
                connector.get()
            assert gave_up.value.total == 2
        with serving(echo):
            connector.get().sendall(b"back")
            assert connector.get().recv(100) == b"BACK"
            sock = connector.get()
        wait_for_end(sock)
        with pytest.raises(tailbite.GaveUpError):
            connector.get()
        with serving(echo):
            connector.get().sendall(b"again")
            assert connector.get().recv(100) == b"AGAIN"


def test_after_a_fatal_error_or_ctrl_c_the_next_get_tries_again() -> None:
    failures: list[BaseException] = [PermissionError(13, "Permission denied"), KeyboardInterrupt()]

    def decide(error: BaseException) -> bool:
        return not isinstance(error, PermissionError)

    def hook(event: tailbite.events.Event) -> None:
        if isinstance(event, tailbite.events.Attempting) and isinstance(failures[0], KeyboardInterrupt):
            raise failures.pop(0)

    with serving(echo), tailbite.Connector(HERE, retry=decide, hooks=hook, backoff=FAST) as connector:
        with FakeNetwork() as network:
            fatal = tailbite.Connector(("db", 1), retry=lambda _: False)
            network.script("db", 1, Refuse(), Accept())
            with pytest.raises(ConnectionRefusedError):
                fatal.get()
            assert fatal.get().fileno() != -1
            fatal.close()
        failures.pop(0)
        failures.append(ValueError())
        with pytest.raises(KeyboardInterrupt):
            connector.get()
        assert connector.get().fileno() != -1


def test_get_inside_get_is_an_error_and_no_deadlock() -> None:
    errors: list[BaseException] = []

    def hook(event: tailbite.events.Event) -> None:
        try:
            connector.get()
        except RuntimeError as error:
            errors.append(error)

    with serving(echo), tailbite.Connector(HERE, hooks=hook) as connector:
        assert connector.get().fileno() != -1
    assert len(errors) == 2  # Attempting, Connected; not Lost, which is an event of close()
    assert all("called by a hook" in str(error) for error in errors)


def test_close_may_be_called_twice_and_by_a_hook() -> None:
    def hook(event: tailbite.events.Event) -> None:
        connector.close()
        connector.close()

    connector = tailbite.Connector(HERE, hooks=hook)
    with pytest.raises(ConnectionAbortedError, match="closed"):
        connector.get()
    with pytest.raises(ConnectionAbortedError, match="closed"):
        connector.get()


class CtrlC:
    """Ctrl-C before a given line of tailbite's code or the socket module's; a context manager."""

    def __init__(self, line: int) -> None:
        self.left = line
        self.before = sys.gettrace()

    def __enter__(self) -> CtrlC:
        sys.settrace(self.trace)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        sys.settrace(self.before)
        return kind is KeyboardInterrupt

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_globals["__name__"].partition(".")[0] not in ("tailbite", "socket"):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self.trace


def test_ctrl_c_at_any_line_of_close_leaves_nothing_that_the_next_close_does_not_end() -> None:
    was_interrupted, line = True, 0
    with serving(echo):
        while was_interrupted:
            line += 1
            connector = tailbite.Connector(HERE, backoff=FAST)
            sock = connector.get()
            with CtrlC(line) as ctrl_c:
                connector.close()
            was_interrupted = ctrl_c.left == 0
            connector.close()
            assert sock.fileno() == -1, f"interrupted before line {line} of close()"
            with pytest.raises(ConnectionAbortedError):
                connector.get()
    assert line > 20


def test_close_ends_a_get_that_waits() -> None:
    connector = tailbite.Connector(HERE, backoff=tailbite.Backoff(60, 60, draw=lambda: 1.0))
    threading.Timer(0.2, connector.close).start()
    start = time.monotonic()
    with pytest.raises(ConnectionAbortedError):
        connector.get()
    assert time.monotonic() - start < 40


def test_threads_get_the_same_connection() -> None:
    got: list[socket.socket] = []
    with serving(echo), tailbite.Connector(HERE) as connector:
        threads = [threading.Thread(target=lambda: got.append(connector.get())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(got) == 8
        assert len({id(sock) for sock in got}) == 1


def test_tls(tls_sides: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server_side, client_side = tls_sides

    def secure_echo(sock: socket.socket) -> None:
        with server_side.wrap_socket(sock, server_side=True) as secure:
            echo(secure)

    with serving(secure_echo), tailbite.Connector(("localhost", PORT), ssl=client_side, read_timeout=60) as connector:
        connector.get().sendall(b"one")
        assert connector.get().recv(100) == b"ONE"
