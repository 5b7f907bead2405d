"""The pure parts of steering somebody else's socket, and the kernel's word on them."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.trap import PORT
from tailbite.core.plan import HostFacts, Means, plan
from tailbite.core.ports import PortRange
from tailbite.guards.python.steering import effective_range, lower_share
from tailbite.kernel.sockopt import IP_LOCAL_PORT_RANGE, pack_port_range
from tailbite.kernel.sysctl import write_ephemeral_range

PORTS = st.integers(1, 65535)


@given(PORTS, PORTS, PORTS)
def test_no_side_that_can_be_drawn_has_the_port(one: int, other: int, port: int) -> None:
    chosen = plan(port, 0, HostFacts(PortRange(min(one, other), max(one, other)), True))
    if chosen.means is not Means.STEER:
        return
    share = lower_share(chosen)
    assert 0 <= share <= 1
    assert all(port not in side for side in chosen.sides)
    lower, upper = chosen.sides[0], chosen.sides[-1]
    if share == 0:
        assert len(lower) < 64 < 1024 <= len(upper)
    elif share == 1 and len(chosen.sides) == 2:
        assert len(upper) < 64 < 1024 <= len(lower)
    elif len(chosen.sides) == 2:
        assert share == pytest.approx(len(lower) / (len(lower) + len(upper)))


@given(PORTS, PORTS, st.integers(0, 65535), st.integers(0, 65535))
def test_the_effective_range_lies_within_the_ephemeral_range(one: int, other: int, low: int, high: int) -> None:
    if low and high and low > high:
        return  # setsockopt(2) refuses it
    ephemeral = PortRange(min(one, other), max(one, other))
    effective = effective_range(pack_port_range(low, high), ephemeral)
    assert ephemeral.low <= effective.low <= effective.high <= ephemeral.high
    if low in ephemeral and high in ephemeral:
        assert effective == PortRange(low, high)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("low", "high"),
    [(PORT - 2, 0), (0, PORT - 2), (PORT - 2, PORT + 2), (1, PORT - 2), (PORT + 2, 65535), (1, 65535)],
)
def test_the_kernel_draws_from_the_effective_range_and_all_of_it(low: int, high: int) -> None:
    ephemeral = PortRange(PORT - 4, PORT + 4)
    write_ephemeral_range(ephemeral)
    seen = set()
    for _ in range(400):
        with socket.socket() as sock:
            sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, pack_port_range(low, high))
            sock.connect_ex(("127.0.0.1", 9))
            seen.add(sock.getsockname()[1])
    assert seen == set(effective_range(pack_port_range(low, high), ephemeral))
