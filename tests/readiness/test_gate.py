"""Times of a wait that are longer than the kernel or Python can wait for, and answers that are too slow."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import tailbite
from tailbite.dial.waiter import Interrupted, Waiter
from tailbite.errors import VerifyError
from tailbite.readiness.status import TargetStatus, describe_error

if TYPE_CHECKING:
    from pathlib import Path


def test_an_answer_that_is_too_slow_is_not_called_silence() -> None:
    slow = VerifyError("silent", 'it sent only "HTTP/1." in time', received=b"HTTP/1.")
    assert describe_error(slow) == (TargetStatus.INCOMPLETE, 'it sent only "HTTP/1." in time')
    mute = VerifyError("silent", "it said nothing", received=b"\x16\x03 a TLS handshake, and nothing inside")
    assert describe_error(mute) == (TargetStatus.SILENT, "it said nothing")


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("seconds", [30 * 86400.0, 1e15, 1e300, math.inf])
def test_times_beyond_what_the_kernel_can_wait_for_are_times_all_the_same(seconds: float) -> None:
    """poll(2) takes 25 days at most, a lock 292 years, and a clock what its type holds."""
    times: dict[str, Any] = {"timeout": seconds, "interval": seconds, "patience": seconds}
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert tailbite.wait(server.getsockname(), **times)[0].ready
        assert asyncio.run(tailbite.aio.wait(server.getsockname(), **times))[0].ready


def test_a_pause_longer_than_poll_can_wait_is_a_pause() -> None:
    waiter = Waiter()
    threading.Timer(0.05, waiter.interrupt).start()
    with waiter.armed(), pytest.raises(Interrupted):
        waiter.wait(time.monotonic() + 1e12)


def test_a_web_server_on_a_unix_socket_is_asked(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path := str(tmp_path / "app.sock"))
        server.listen()

        def serve() -> None:
            for status in (b"404 Not Found", b"200 OK"):
                with server.accept()[0] as client:
                    assert client.recv(4096).startswith(b"GET /info HTTP/1.1\r\n")
                    client.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        (seen,) = tailbite.wait(path, verify=tailbite.verify.http("/info"), interval=0.01, timeout=30)
        thread.join(30)
    assert seen.ready
