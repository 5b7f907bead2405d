"""Inspections: what is found where, what they cost, what is put off, and namespaces that vanish."""

from __future__ import annotations

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
from tailbite.watch.inspector import WALK_EVERY_S, Inspector, inspect_namespace

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


def test_a_budget_puts_off_and_says_how_many(children: list[subprocess.Popen[str]]) -> None:
    clock = iter(range(100))
    inspect = Inspector(every=15.0, budget=0.01, cpu_clock=lambda: float(next(clock)))  # each question is a second
    seen: set[int] = set()
    for turn in range(3):
        found = inspect.inspect_round(turn * 1.0)
        others = {report.namespace.inode for report in found.inspected} - {current_namespace().inode}
        assert len(others) == 1
        assert found.deferred == 2 - turn
        seen |= others
    assert len(seen) == 3  # each had its turn
    assert len(found.reports) == 4


def test_what_a_round_takes_too_much_is_taken_off_the_next(children: list[subprocess.Popen[str]]) -> None:
    seconds = iter([0, 0, 1, 2, 9, 9, 9, 20, 20, 21, 22, 22, 22])  # the third visit takes seven seconds
    inspect = Inspector(every=10.0, budget=0.4, cpu_clock=lambda: float(next(seconds)))
    assert len(inspect.inspect_round(0.0).inspected) == 3
    inspect.name(None)
    assert len(inspect.inspect_round(1.0).inspected) == 2  # its own, and one more, whatever they cost


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
