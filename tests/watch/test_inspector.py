"""Inspections: what is found where, what they cost, what is put off, and namespaces that vanish."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.itself import connected_to_itself
from support.trap import PORT
from support.walks import record_walks
from tailbite.core.ports import PortRange, PortSet
from tailbite.host.see import namespaces
from tailbite.host.see.namespaces import current_namespace
from tailbite.host.see.records import Namespace, NamespaceKind
from tailbite.kernel.sysctl import write_ephemeral_range, write_reserved_ports
from tailbite.watch import inspector
from tailbite.watch.inspector import (
    BUDGET,
    WALK_EVERY_S,
    InspectionRound,
    Inspector,
    NamespaceReport,
    inspect_namespace,
)
from tailbite.watch.metrics import ExporterState
from tailbite.watch.records import SourceKind, SourceState
from tailbite.watch.rounds import ROUND_S

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("network")

CHILD = """
import socket
from tailbite.kernel.namespace import fresh_network
with fresh_network():
    server = socket.create_server(("127.0.0.1", 8000))
    print(flush=True)
    input()
"""


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[str]]]:
    """Three namespaces with a listener each, which are all there are beside the own one."""
    started = [subprocess.Popen([sys.executable, "-c", CHILD], stdin=-1, stdout=-1, text=True) for _ in range(3)]
    for child in started:
        assert child.stdout is not None
        child.stdout.readline()
    places = {namespaces.namespace_of_process(child.pid) for child in started}
    monkeypatch.setattr(inspector, "visible_namespaces", lambda: ((current_namespace(), *places), ()))
    yield started
    for child in started:
        child.communicate("\n", timeout=20)


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The namespace of each request that walks the table of connections."""
    return record_walks(monkeypatch)


def test_exposed_listeners_are_those_of_the_range_that_are_not_reserved() -> None:
    write_ephemeral_range(PortRange(40000, 50000))
    write_reserved_ports(PortSet.parse("40002"))
    with (
        socket.create_server(("127.0.0.1", 40001)),
        socket.create_server(("127.0.0.1", 40002)),
        socket.create_server(("127.0.0.1", 39999)),
        connected_to_itself(PORT),
    ):
        report = inspect_namespace(current_namespace())
    assert report is not None
    assert report.exposed == (40001,)
    assert report.ephemeral == PortRange(40000, 50000)
    assert [one.endpoints.local.port for one in report.self_connects] == [PORT]
    assert report.traffic[0] is not None


class Cost:
    """A clock of CPU time that only inspections move."""

    def __init__(self, own: float, other: float) -> None:
        self.spent = 0.0
        self._own, self._other = own, other

    def inspect(self, namespace: Namespace, *, is_walked: bool = True) -> NamespaceReport:
        """Find nothing, at a price."""
        self.spent += self._own if namespace.is_own else self._other
        return NamespaceReport(namespace, ephemeral=PortRange(32768, 60999))

    def clock(self) -> float:
        """Return the seconds spent."""
        return self.spent


def inspect_ten_minutes(
    monkeypatch: pytest.MonkeyPatch, cost: Cost, *, others: int = 3, budget: float = BUDGET
) -> list[InspectionRound]:
    """Inspect the own namespace and others that have a socket each, every 15 seconds."""
    numbers = range(1, 1 + others)
    places = [Namespace(number, NamespaceKind.NAMED, str(number), f"/run/netns/{number}") for number in numbers]
    monkeypatch.setattr(inspector, "visible_namespaces", lambda: ((current_namespace(), *places), ()))
    monkeypatch.setattr(inspector, "inspect_namespace", cost.inspect)
    inspect = Inspector(every=15.0, budget=budget, cpu_clock=cost.clock)
    return [inspect.inspect_round(turn * 15.0) for turn in range(40)]


def inspected(found: InspectionRound) -> set[int]:
    """Return the inodes of the namespaces that a round inspected; 0 stands for the own one."""
    return {0 if one.namespace.is_own else one.namespace.inode for one in found.inspected}


def test_a_budget_puts_off_and_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = inspect_ten_minutes(monkeypatch, Cost(own=0.01, other=0.07))
    assert [inspected(found) for found in rounds[:4]] == [{0, 1}, {0, 2}, {0, 3}, {0, 1}]
    assert [found.deferred for found in rounds[:4]] == [2, 1, 0, 0]
    assert len(rounds[2].reports) == 4
    assert not any(found.is_own_unseen for found in rounds)


@pytest.mark.parametrize("slowness", [1, 2])
def test_a_million_sockets_in_the_own_namespace_take_two_percent_of_a_cpu_at_most(
    monkeypatch: pytest.MonkeyPatch, slowness: int
) -> None:
    cost = Cost(own=0.25 * slowness, other=0.08 * slowness)  # measured with a million sockets, and twice as much
    rounds = inspect_ten_minutes(monkeypatch, cost, others=100)
    assert cost.spent / 600 <= 0.02
    visits = [turn for turn, found in enumerate(rounds) if 0 in inspected(found)]
    assert max(later - turn for turn, later in itertools.pairwise(visits)) * 15 <= ROUND_S
    assert min(found.deferred for found in rounds[4:]) > 0  # said in each round, of itself and of the others
    assert {looks(rounds)["failed"], looks(rounds)["complete"]} == {0, 40}


def looks(rounds: list[InspectionRound]) -> dict[str, int]:
    """Return the exporter's count of rounds by result."""
    state = ExporterState(SourceState(SourceKind.POLL))
    for found in rounds:
        state.take_round(found)
    return state.rounds


def test_whatever_they_cost_the_own_namespace_and_one_other_are_inspected_within_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = inspect_ten_minutes(monkeypatch, Cost(own=30.0, other=30.0))
    for start in range(1, 37):  # each four rounds are a minute
        minute = set().union(*(inspected(found) for found in rounds[start : start + 4]))
        assert 0 in minute
        assert minute - {0}
    assert set().union(*map(inspected, rounds)) == {0, 1, 2, 3}


def test_a_round_that_took_too_much_makes_the_next_ones_inspect_less(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = inspect_ten_minutes(monkeypatch, Cost(own=0.0, other=20 / 64), others=9, budget=1 / 64)
    numbers = [len(inspected(found) - {0}) for found in rounds]
    assert numbers[:4] == [1, 1, 1, 0]  # a round's 15/64 s of budget pay for three inspections in four rounds
    assert sum(numbers[:20]) == 15


def test_without_events_each_inspection_walks_the_namespaces_with_connections(
    children: list[subprocess.Popen[str]], walks: list[int]
) -> None:
    inspect = Inspector(every=60.0, budget=1.0)
    with connected_to_itself(PORT):
        inspect.inspect_round(0.0)
        inspect.inspect_round(60.0)
    assert walks == [current_namespace().inode] * 2  # the children have listeners alone


def test_while_every_event_is_told_only_news_and_time_ask_for_a_walk(walks: list[int]) -> None:
    inspect = Inspector(only_own=True)

    def is_walked(now: float, *, is_told_all: bool = True) -> bool:
        walks.clear()
        inspect.inspect_round(now, is_told_all=is_told_all)
        return bool(walks)

    with socket.create_server(("127.0.0.1", PORT + 1)) as server, socket.create_connection(server.getsockname()):
        assert is_walked(0.0)  # what was there before the start
        assert not is_walked(15.0)
        inspect.name(current_namespace())
        assert is_walked(30.0)
        assert not is_walked(45.0)
        assert is_walked(60.0, is_told_all=False)  # events were lost
        assert not is_walked(75.0)
        assert is_walked(60.0 + WALK_EVERY_S)
        inspect.name(None)
        with connected_to_itself(PORT):
            assert is_walked(400.0)
            assert is_walked(415.0)  # until it is gone
        assert is_walked(430.0)


def test_a_named_namespace_comes_first(children: list[subprocess.Popen[str]]) -> None:
    inspect = Inspector(every=15.0, budget=1.0)  # enough on a busy machine
    assert len(inspect.inspect_round(0.0).inspected) == 4
    assert len(inspect.inspect_round(15.0).inspected) == 1  # the own one: the others wait for their turn
    inspect.name(namespaces.namespace_of_process(children[2].pid))
    assert len(inspect.inspect_round(16.0).inspected) == 2
    inspect.name(None)  # something happened, and it is not known where
    assert len(inspect.inspect_round(17.0).inspected) == 4


def test_a_namespace_that_vanishes_is_forgotten_and_not_called_invisible(
    children: list[subprocess.Popen[str]],
) -> None:
    inspect = Inspector(every=15.0, budget=1.0)  # enough on a busy machine
    assert len(inspect.inspect_round(0.0).reports) == 4
    children[0].kill()
    children[0].wait()
    inspect.name(None)
    found = inspect.inspect_round(1.0)
    assert len(found.reports) == 3
    assert (found.unseen, found.not_visible) == (0, ())


def test_one_that_may_not_be_entered_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no")

    place = Namespace(7, NamespaceKind.NAMED, "closed", "/run/netns/closed")
    monkeypatch.setattr(inspector, "visible_namespaces", lambda: ((place,), ()))
    monkeypatch.setattr(inspector, "call_in_namespace", refuse)
    found = Inspector().inspect_round(0.0)
    assert (found.unseen, len(found.inspected), len(found.not_visible)) == (1, 0, 1)
    assert not found.is_complete
