"""The steering rule: no sub-range contains the destination port, and few source ports are given up."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.abilities import has_ability
from support.trap import PORT
from tailbite.core.ports import PortRange
from tailbite.core.sub_ranges import effective_range, lower_share
from tailbite.kernel.sockopt import IP_LOCAL_PORT_RANGE, pack_port_range
from tailbite.kernel.sysctl import write_ephemeral_range

PORTS = st.integers(1, 65535)


@given(low=st.integers(1, 40000), below=st.integers(1, 12000), above=st.integers(1, 12000))
def test_a_side_is_used_in_proportion_to_its_size_or_left_out_when_it_is_small(
    low: int, below: int, above: int
) -> None:
    port = low + below
    share = lower_share(PortRange(low, port + above).around(port))
    if share == 0:
        assert below < 64
        assert below / (below + above) < 1 / 16
    elif share == 1:
        assert above < 64
        assert above / (below + above) < 1 / 16
    else:
        assert share == pytest.approx(below / (below + above))


@given(low=st.integers(1, 40000), few=st.integers(1, 63), below=st.booleans())
def test_few_ports_are_left_out_where_the_other_side_has_many(low: int, few: int, below: bool) -> None:
    many = 16 * few
    port = low + (few if below else many)
    assert lower_share(PortRange(low, low + few + many).around(port)) == (0 if below else 1)


def test_one_side_is_always_used() -> None:
    assert lower_share(PortRange(PORT, PORT + 1).around(PORT)) == 1
    assert lower_share(PortRange(PORT - 1, PORT).around(PORT)) == 1


@given(PORTS, PORTS, st.integers(0, 65535), st.integers(0, 65535))
def test_the_effective_range_lies_within_the_ephemeral_range(one: int, other: int, low: int, high: int) -> None:
    if low and high and low > high:
        return  # setsockopt(2) refuses it, see below
    ephemeral = PortRange(min(one, other), max(one, other))
    effective = effective_range(ephemeral, pack_port_range(low, high))
    assert ephemeral.low <= effective.low <= effective.high <= ephemeral.high
    if low in ephemeral and high in ephemeral:
        assert effective == PortRange(low, high)


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.usefixtures("network")
def test_the_kernel_refuses_bounds_that_cross() -> None:
    with socket.socket() as sock, pytest.raises(OSError, match="Invalid argument"):
        sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, pack_port_range(PORT + 1, PORT))


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("low", "high"),
    [(PORT - 2, 0), (0, PORT - 2), (PORT - 2, PORT + 2), (1, PORT - 2), (PORT + 2, 65535), (1, 65535)],
)
def test_the_kernel_chooses_from_the_effective_range_and_all_of_it(low: int, high: int) -> None:
    ephemeral = PortRange(PORT - 4, PORT + 4)
    write_ephemeral_range(ephemeral)
    seen = set()
    for _ in range(400):
        with socket.socket() as sock:
            sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, pack_port_range(low, high))
            sock.connect_ex(("127.0.0.1", 9))
            seen.add(sock.getsockname()[1])
    effective = effective_range(ephemeral, pack_port_range(low, high))
    even = max(len(effective) & ~1, 1)  # connect() rounds an odd number of ports down (__inet_hash_connect)
    both = set(effective), set(range(effective.low, effective.low + even, 2))
    assert seen == both[not has_ability("BOTH_PARITIES_OF_RANGE")]
