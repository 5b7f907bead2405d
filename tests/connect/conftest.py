"""Both means for the tests of the shells, and a server for the comparisons with the standard library."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tailbite.connect import facts
from tailbite.core.ports import PortRange
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
LIVE, DEAD = 40000, 40001  # outside the ephemeral range of the tests that use them


@pytest.fixture(params=[pytest.param("steered", marks=pytest.mark.needs("IP_LOCAL_PORT_RANGE")), "reset"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both means: IP_LOCAL_PORT_RANGE, and the one for kernels and systems without it."""
    if request.param == "reset":
        monkeypatch.setattr(facts, "supports_local_port_range", lambda: False)
        monkeypatch.setattr(facts, "_known", {})
    return str(request.param)


@pytest.fixture
def live(network: None) -> Iterator[None]:
    """A server on LIVE that closes what it accepts, and a bound socket on DEAD."""
    write_ephemeral_range(PortRange(50000, 59999))
    with socket.create_server((HOST, LIVE), backlog=300) as server, socket.socket() as dead:
        dead.bind((HOST, DEAD))

        def accept() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
