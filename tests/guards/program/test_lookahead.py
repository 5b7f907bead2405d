"""A port is out of reach of the next connects: compared with a model of the kernel's search, and with the kernel."""

from __future__ import annotations

import contextlib
import socket
from time import sleep
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.machine_events import own_port
from tailbite.core.ports import PortRange, PortSet
from tailbite.guards.program import lookahead
from tailbite.guards.program.lookahead import LocalDestination, Lookahead, ports_before, reach_of
from tailbite.kernel.snmp import TcpOpens
from tailbite.kernel.sockaddr import pack_sockaddr
from tailbite.kernel.sysctl import write_ephemeral_range, write_reserved_ports

LOW, HIGH = 1000, 3000
PORT: Final = own_port(40_000, 2)
"""Of this process alone: all namespaces share the kernel's sequences of source ports, one for each destination port
(``table_perturb`` in net/ipv4/inet_hashtables.c)."""
AROUND: Final = PortRange(PORT - 1004, PORT + 995)
HERE = LocalDestination(socket.AF_INET, "127.0.0.1", PORT)
network = pytest.mark.usefixtures("network")


def counted() -> Lookahead:
    """Return a lookahead that has counted the connects of others for a moment."""
    ahead = Lookahead()
    sleep(0.06)  # its next inspection counts them
    return ahead


class Kernel:
    """The search of ``__inet_hash_connect``: every second port from where the sequence is, past those in use."""

    def __init__(self, drawn: int, in_use: set[int]) -> None:
        self.at, self.in_use = drawn, in_use

    def choose(self, noise: int) -> int:
        self.at += 2 + 2 * noise
        while True:
            if self.at > HIGH:
                self.at -= HIGH - LOW + 1
            if self.at not in self.in_use:
                return self.at
            self.at += 2


@given(
    st.integers(LOW, HIGH),
    st.integers(LOW, HIGH),
    st.lists(st.integers(0, 7), min_size=1, max_size=8),
    st.integers(0, 60),
    st.booleans(),
)
def test_a_port_further_away_than_the_reach_is_never_chosen(
    drawn: int, port: int, noise: list[int], in_use: int, is_even: bool
) -> None:
    """The ports in use lie where they do most: right before the port, and the calls come one after the other."""
    start = port - 2 if is_even else port - 1
    busy = {LOW + (start - 2 * number - LOW) % (HIGH - LOW + 1) for number in range(in_use)} - {drawn}
    chosen = [Kernel(drawn, busy).choose(one) for one in noise[:1]]
    kernel = Kernel(drawn, busy)
    chosen += [kernel.choose(one) for one in noise]
    if ports_before(port, drawn, LOW, HIGH) > reach_of(len(noise), len(busy)):
        assert port not in chosen


def test_the_port_itself_is_a_whole_range_away_once_it_was_drawn() -> None:
    assert ports_before(LOW, LOW, LOW, HIGH) == HIGH - LOW + 1
    assert ports_before(LOW, HIGH, LOW, HIGH) == 1


@pytest.mark.parametrize(
    ("family", "address", "expected"),
    [
        (socket.AF_INET, ("127.0.0.1", PORT), HERE),
        (socket.AF_INET, ("0.0.0.0", PORT), HERE),
        (socket.AF_INET, ("192.0.2.1", 1), LocalDestination(socket.AF_INET, "192.0.2.1", 1)),
        (socket.AF_INET6, ("::ffff:127.0.0.1", PORT), HERE),
        (socket.AF_INET6, ("::ffff:0.0.0.0", PORT), HERE),
        (socket.AF_INET6, ("::", PORT), LocalDestination(socket.AF_INET6, "::1", PORT)),
        (socket.AF_INET6, ("fe80::1", PORT, 0, 3), LocalDestination(socket.AF_INET6, "fe80::1", PORT, 3)),
    ],
)
def test_the_address_at_both_ends_of_a_connect_to_itself(
    family: int, address: tuple[object, ...], expected: LocalDestination
) -> None:
    assert LocalDestination.parse(pack_sockaddr(family, address).ljust(28, b"\xff")) == expected


@network
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_over_more_than_a_lap_no_connect_gets_the_port(host: str) -> None:
    """Range of 2000 ports, 600 connects, each after an inspection; the control without gets it."""
    write_ephemeral_range(AROUND)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    destination = LocalDestination(family, host, PORT)
    ahead = counted()

    def hits(count: int, *, inspects: bool) -> int:
        hit = 0
        for _ in range(count):
            if inspects:
                ahead.count_call()
                assert ahead.is_out_of_reach(destination, 1)
            with socket.socket(family) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1" + bytes(7))
                sock.connect_ex((host, PORT))
                hit += sock.getsockname()[1] == PORT
        return hit

    assert hits(600, inspects=True) == 0
    assert hits(20_000, inspects=False) > 0, "the control did not self-connect"


@network
def test_a_range_of_few_ports_is_never_out_of_reach() -> None:
    write_ephemeral_range(PortRange(PORT, PORT + 63))
    assert not counted().is_out_of_reach(HERE, 1)


@network
def test_ports_that_are_reserved_or_bound_only_lengthen_the_reach() -> None:
    """The kernel passes them in one step: behind 800 of them the port would be the next one."""
    write_ephemeral_range(AROUND)
    write_reserved_ports(PortSet.of([PortRange(PORT - 800, PORT - 1)]))
    assert not counted().is_out_of_reach(HERE, 1)
    write_reserved_ports(PortSet())
    assert counted().is_out_of_reach(HERE, 1)
    with contextlib.ExitStack() as stack:
        for number in range(500):
            stack.enter_context(socket.socket()).bind(("127.0.0.1", PORT - 1 - number))
        assert not counted().is_out_of_reach(HERE, 1)


@network
def test_where_nothing_can_be_drawn_nothing_is_said_to_be_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    write_ephemeral_range(PortRange(32768, 60999))
    elsewhere = LocalDestination(socket.AF_INET, "192.0.2.1", PORT)
    assert not counted().is_out_of_reach(elsewhere, 1)
    monkeypatch.setattr(lookahead, "read_sysctl", lambda _: "8")
    assert not counted().is_out_of_reach(HERE, 1), "ip_local_port_step_width: chosen at random"


@network
def test_a_sequence_that_others_move_fast_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    write_ephemeral_range(PortRange(32768, 60999))
    ahead = counted()
    assert not ahead.is_still_out_of_reach(HERE, 1), "the first inspection has nothing to compare with"
    drawn = iter([50000, 50016, 58000, 58016])
    monkeypatch.setattr(lookahead, "draw_source_port", lambda *_: next(drawn))
    assert ahead.is_out_of_reach(HERE, 1)
    assert [ahead.is_still_out_of_reach(HERE, 1) for _ in range(3)] == [True, False, True]


@network
def test_where_others_connect_and_this_process_hardly_runs_nothing_is_out_of_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others move the sequence on while the supervisor has no CPU: 1 000 connects a second, half a second."""
    write_ephemeral_range(PortRange(32768, 60999))
    clock, opens = [1000.0], [500]
    monkeypatch.setattr(lookahead, "monotonic", lambda: clock[0])
    monkeypatch.setattr(lookahead, "read_tcp_opens", lambda: TcpOpens(opens[0], 0))

    def after(seconds: float, others: int) -> bool:
        clock[0] += seconds
        opens[0] += others
        ahead.count_call()
        is_out_of_reach = ahead.is_out_of_reach(HERE, 1)
        opens[0] += 1  # the call itself, which runs later
        return is_out_of_reach

    ahead = Lookahead()
    assert not after(0.04, 0), "a storm may be under way"
    assert after(0.02, 0)
    assert all(after(0.0001, 0) for _ in range(500)), "these are our own calls"
    ahead.add_delay(0.5)
    assert after(0.1, 0)
    assert not after(0.1, 100)
    assert not after(1, 0), "a storm may come again"
    assert after(60, 0)
    assert not after(3600, 5000), "all of them may have been made in the last moments"
    assert after(3600, 0)


@network
def test_where_connects_cannot_be_counted_nothing_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    write_ephemeral_range(PortRange(32768, 60999))
    assert counted().is_out_of_reach(HERE, 1)

    def fail() -> TcpOpens:
        raise ValueError

    monkeypatch.setattr(lookahead, "read_tcp_opens", fail)
    assert not counted().is_out_of_reach(HERE, 1)
