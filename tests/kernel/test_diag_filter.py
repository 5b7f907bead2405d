"""The filter programs accept exactly the sockets whose two ports share an interval, so never drop a self-connect."""

from __future__ import annotations

import contextlib
import socket
from bisect import bisect_right
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.bytecode import accepts, is_well_formed
from tailbite.core.ports import HIGHEST_PORT, PortRange
from tailbite.kernel.diag_filter import cuts, local_port_is, same_interval
from tailbite.kernel.inet_diag import CONNECTION_STATES
from tailbite.kernel.sock_diag import SockDiag
from tailbite.kernel.sockopt import abort

if TYPE_CHECKING:
    from collections.abc import Iterator

ports = st.integers(0, HIGHEST_PORT)
partitions = st.sets(st.integers(1, HIGHEST_PORT), max_size=80).map(lambda some: (0, *sorted(some)))


@st.composite
def ranges(draw: st.DrawFn) -> PortRange:
    low, high = sorted((draw(ports), draw(ports)))
    return PortRange(low, high)


@given(partitions, ports, ports)
def test_a_socket_is_accepted_if_and_only_if_both_ports_share_an_interval(
    starts: tuple[int, ...], local: int, remote: int
) -> None:
    program = same_interval(starts)
    assert is_well_formed(program)
    assert accepts(program, local, remote) == (bisect_right(starts, local) == bisect_right(starts, remote))


@given(partitions)
def test_no_equal_pair_of_ports_is_ever_dropped(starts: tuple[int, ...]) -> None:
    program = same_interval(starts)
    edges = {edge for start in starts for edge in (start - 1, start, start + 1)} | {0, HIGHEST_PORT}
    for port in edges & set(range(HIGHEST_PORT + 1)):
        assert accepts(program, port, port)


@given(st.none() | ranges(), st.integers(1, 300))
def test_cuts_are_a_partition_that_keeps_the_ephemeral_range_apart(ephemeral: PortRange | None, pieces: int) -> None:
    starts = cuts(ephemeral, pieces)
    assert starts[0] == 0
    assert list(starts) == sorted(set(starts))
    assert starts[-1] <= HIGHEST_PORT
    if ephemeral:
        assert ephemeral.low in starts
        assert ephemeral.high == HIGHEST_PORT or ephemeral.high + 1 in starts


@given(ports, ports, ports)
def test_the_port_program_accepts_its_local_port_alone(port: int, local: int, remote: int) -> None:
    program = local_port_is(port)
    assert is_well_formed(program)
    assert accepts(program, local, remote) == (local == port)
    assert accepts(program, port, remote)


@pytest.fixture
def crowd(network: None) -> Iterator[set[tuple[int, int]]]:
    """Connections with ports all over, some of them to themselves; yields the ports of both ends of each."""
    pairs = set()
    with contextlib.ExitStack() as stack:
        for number, port in enumerate((1, 80, 1023, 8080, 32767, 32768, 40000, 50051, 60999, 61000, 65535)):
            server = stack.enter_context(socket.create_server(("127.0.0.1", port)))
            for source in (2 + number, 20000 + number, 45000 + number, 65000 + number):
                client = socket.socket()
                stack.callback(abort, client)
                client.bind(("127.0.0.1", source))
                client.connect(("127.0.0.1", port))
                stack.callback(abort, server.accept()[0])
                pairs |= {(source, port), (port, source)}
        for port in (7, 31000, 50000):
            own = socket.socket()
            stack.callback(abort, own)
            own.bind(("127.0.0.2", port))
            own.connect(("127.0.0.2", port))
            pairs.add((port, port))
        yield pairs


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(starts=partitions)
def test_the_kernel_runs_a_program_as_the_interpreter_does(
    crowd: set[tuple[int, int]], starts: tuple[int, ...]
) -> None:
    program = same_interval(starts)
    with SockDiag() as diag:
        listed = diag.dump(CONNECTION_STATES, [socket.AF_INET], program=program)
        seen = {(one.endpoints.local.port, one.endpoints.remote.port) for one in listed}
    assert seen == {pair for pair in crowd if accepts(program, *pair)}


@pytest.mark.parametrize("pieces", [1, 8, 64, 256, 1024])
def test_the_kernel_takes_programs_of_any_size(crowd: set[tuple[int, int]], pieces: int) -> None:
    program = same_interval(cuts(PortRange(32768, 60999), pieces))
    assert is_well_formed(program)
    with SockDiag() as diag:
        listed = list(diag.dump(CONNECTION_STATES, [socket.AF_INET], program=program))
    assert {7, 31000, 50000} <= {one.endpoints.local.port for one in listed if one.is_self_connected}
