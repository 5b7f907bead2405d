"""A source port that is found out without a packet, and the sequence that it is from."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from support.machine_events import own_port
from tailbite.core.ports import PortRange
from tailbite.kernel.silent_draw import draw_source_port
from tailbite.kernel.sysctl import write_ephemeral_range

PORT = own_port(15_000, 2)  # sequences of source ports are the machine's, not the namespace's
RANGE = PortRange(32768, 60999)
pytestmark = pytest.mark.usefixtures("network")


@pytest.fixture(autouse=True)
def _usual_range() -> None:
    write_ephemeral_range(RANGE)


def segments() -> tuple[int, int]:
    """Return how many connects this namespace began, and how many segments it sent."""
    names, values = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line[:4] == "Tcp:")
    seen = dict(zip(names, values, strict=True))
    return int(seen["ActiveOpens"]), int(seen["OutSegs"])


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_draw_sends_nothing_and_a_listener_notices_nothing(family: int, host: str) -> None:
    with socket.create_server((host, PORT), family=family) as server:
        server.settimeout(0)
        before = segments()
        assert draw_source_port(family, host, PORT) in RANGE
        assert segments() == before
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_draws_and_connects_share_one_sequence_that_moves_by_at_most_16_ports(family: int, host: str) -> None:
    """Beside it a draw for another port, whose sequence is another one."""

    def connect() -> int:
        with socket.socket(family) as sock:
            sock.connect_ex((host, PORT))
            return int(sock.getsockname()[1])

    last = draw_source_port(family, host, PORT)
    for number in range(200):
        drawn = draw_source_port(family, host, PORT) if number % 2 else connect()
        assert 1 <= (drawn - last) % len(RANGE) <= 16
        last = drawn


def test_an_address_of_another_host_has_no_sequence_here() -> None:
    with pytest.raises(OSError) as refused:
        draw_source_port(socket.AF_INET, "192.0.2.7", PORT)
    assert refused.value.errno == errno.EADDRNOTAVAIL
