"""The loop: events and inspections in turn, each self-connect counted once, destroyed if asked."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from support.itself import connected_to_itself
from support.machine_events import machine_events, own_port
from support.old_kernel import refuse_to_destroy
from support.trap import PORT, Trap, server_can_bind, wait_for_time_wait
from tailbite.core.address import Endpoint
from tailbite.host.see.namespaces import current_namespace
from tailbite.kernel.destroy_events import DestroyEvents
from tailbite.kernel.established_events import EstablishedEvents
from tailbite.watch.inspector import Inspector
from tailbite.watch.killer import confirm_port_free, destroy_noticed
from tailbite.watch.records import Moment, SelfConnectEvent, SourceKind, SourceState
from tailbite.watch.sources import BpfSource, DestroySource, PollSource
from tailbite.watch.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.watch.inspector import InspectionRound
    from tailbite.watch.watcher import Noticed

pytestmark = pytest.mark.usefixtures("network")

LONELY_PORT = own_port(40_000, 4)
"""Of one test alone: the events of the machine are those of other tests too."""


@pytest.fixture(autouse=True)
def shared_events() -> Iterator[None]:
    with machine_events():
        yield


def watcher(source: object, *, kill: bool = False, every: float = 15.0) -> Watcher:
    return Watcher(source, Inspector(only_own=True, every=every), kill=kill)  # type: ignore[arg-type]


def wait_for(watch: Watcher, moment: Moment, port: int = PORT) -> Noticed:
    while True:  # the test's time limit ends a failure
        for one in watch.wait(1.0):
            if one.event.moment is moment and one.event.endpoint.port == port:
                return one


def test_an_inspection_finds_what_was_open_before_once() -> None:
    with connected_to_itself(PORT):
        watch = watcher(PollSource(), every=0.01)
        found = wait_for(watch, Moment.FOUND)
        assert found.is_new
        assert found.event.name
        assert found.event.traffic is not None
        for _ in range(5):
            assert watch.wait(1.0) == []
    assert watch.wait(1.0) == []  # its TIME-WAIT is the same one
    assert watch.tally.total == 1


@pytest.mark.needs("BPF_TRACEPOINT")
def test_an_event_is_counted_once_and_has_its_namespace_inspected_soon() -> None:
    source = BpfSource(EstablishedEvents(), only_own=True)
    watch = watcher(source)
    watch.wait(0.0)
    first = watch.last_round
    with connected_to_itself(LONELY_PORT):
        assert wait_for(watch, Moment.ESTABLISHED, LONELY_PORT).is_new
        while watch.last_round is first:  # within a second, not after 15
            watch.wait(1.0)
        assert watch.last_round is not None
        (report,) = watch.last_round.inspected
        assert [one.endpoints.local.port for one in report.self_connects] == [LONELY_PORT]
    source.close()
    assert watch.tally.by_label[str(LONELY_PORT), "host"] == 1


class SlowInspector(Inspector):
    """An inspection during which a client connects to itself."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        super().__init__(only_own=True)
        self._stack = stack

    def inspect_round(self, now: float, *, is_told_all: bool = False) -> InspectionRound:
        self._stack.enter_context(connected_to_itself(LONELY_PORT))
        return super().inspect_round(now, is_told_all=is_told_all)


@pytest.mark.needs("BPF_TRACEPOINT")
def test_one_that_begins_while_an_inspection_is_under_way_is_counted_once() -> None:
    source = BpfSource(EstablishedEvents(), only_own=True)
    with contextlib.ExitStack() as stack:
        watch = Watcher(source, SlowInspector(stack))
        noticed = watch.wait(0.0)
        mine = [one.event.moment for one in noticed if one.is_new and one.event.endpoint.port == LONELY_PORT]
        assert mine == [Moment.ESTABLISHED]
        assert watch.wait(0.0) == []
    source.close()


def test_a_destroyed_one_that_was_found_before_is_counted_once() -> None:
    source = DestroySource(DestroyEvents)
    watch = watcher(source, every=0.01)
    sock = connected_to_itself(PORT)
    assert wait_for(watch, Moment.FOUND).is_new
    sock.close()
    assert not wait_for(watch, Moment.ENDED).is_new
    connected_to_itself(PORT + 1).close()
    while watch.tally.total < 2:
        watch.wait(0.1)
    assert watch.tally.total == 2
    source.close()


HELD = """
import socket, sys
sock = socket.socket()
while sock.connect_ex(("127.0.0.1", int(sys.argv[1]))):
    pass
print(flush=True)
try:
    while True:
        sock.sendall(b"x")
        sock.recv(1)
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture
def client() -> Iterator[subprocess.Popen[str]]:
    """A client that the kernel has connected to itself; nobody bound its port."""
    Trap().set()
    command = [sys.executable, "-c", HELD, str(PORT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        assert not server_can_bind()
        yield process
        process.kill()


@pytest.mark.needs("SOCK_DESTROY")
def test_kill_frees_the_port_of_one_that_an_inspection_finds(client: subprocess.Popen[str]) -> None:
    event = wait_for(watcher(PollSource(), kill=True, every=0.01), Moment.FOUND).event
    assert event.end is not None
    assert event.end.is_destroyed
    assert event.end.is_port_free
    assert server_can_bind()
    assert client.stdout is not None
    assert client.stdout.read() == "ConnectionAbortedError\n"


@pytest.mark.needs("BPF_TRACEPOINT", "SOCK_DESTROY")
def test_kill_destroys_each_as_it_is_established_and_a_server_starts() -> None:
    Trap().set()
    source = BpfSource(EstablishedEvents(), only_own=True)
    watch = watcher(source, kill=True)
    command = [sys.executable, "-c", HELD, str(PORT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        event = wait_for(watch, Moment.ESTABLISHED).event
        assert event.end is not None
        assert event.end.is_destroyed, event.end
        assert process.wait(30) == 0
    assert server_can_bind()
    source.close()


@pytest.mark.needs("SOCK_DESTROY", "SOCK_DESTROY_TIME_WAIT")
def test_kill_ends_the_time_wait_of_one_that_is_reported_at_its_end() -> None:
    source = DestroySource(DestroyEvents, only_own=True)
    watch = watcher(source, kill=True)
    watch.wait(0.0)  # the next inspection is far away
    connected_to_itself(PORT).close()
    assert not server_can_bind()  # the control
    event = wait_for(watch, Moment.ENDED).event
    assert event.end is not None
    assert (event.end.is_destroyed, event.end.is_port_free) == (True, True)
    assert server_can_bind()
    source.close()


@pytest.mark.needs("SOCK_DESTROY", "BOUND_SOCKETS_LISTED")
def test_a_port_that_its_owner_had_bound_stays_bound_and_that_is_said() -> None:
    with connected_to_itself(PORT):
        event = SelfConnectEvent(
            time.time(),
            Moment.ESTABLISHED,
            SourceKind.BPF,
            Endpoint("127.0.0.1", PORT),
            socket.AF_INET,
            current_namespace(),
        )
        result = confirm_port_free(event, destroy_noticed(event))
        assert (result.is_destroyed, result.is_port_free, result.refused) == (True, False, "")
        assert not server_can_bind()
    again = destroy_noticed(event)
    assert (again.is_destroyed, again.refused) == (False, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")
def test_a_time_wait_that_the_kernel_does_not_destroy_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_destroy(monkeypatch)
    with connected_to_itself(PORT):
        pass
    wait_for_time_wait()
    assert not server_can_bind()
    event = SelfConnectEvent(
        time.time(), Moment.FOUND, SourceKind.POLL, Endpoint("127.0.0.1", PORT), socket.AF_INET, current_namespace()
    )
    result = confirm_port_free(event, destroy_noticed(event))
    assert (result.is_destroyed, result.is_port_free, result.refused) == (True, True, "")
    assert server_can_bind()


def test_a_refusal_is_reported_once_and_again_when_the_reason_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_destroy(monkeypatch)
    watch = watcher(PollSource(), kill=True, every=0.01)
    with connected_to_itself(PORT):
        (first,) = watch.wait(1.0)
        assert first.event.end is not None
        assert first.event.end.refused.endswith("end the program that has it")
        for _ in range(5):
            assert watch.wait(1.0) == []
    wait_for_time_wait()
    monkeypatch.setattr("tailbite.kernel.end_socket.replace_time_wait", refuse_repair)
    (second,) = watch.wait(1.0)
    assert not second.is_new
    assert second.event.end is not None
    assert "wait for its end" in second.event.end.refused
    for _ in range(5):
        assert watch.wait(1.0) == []


def refuse_repair(*_: object, **__: object) -> None:
    raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))


def test_an_unknown_namespace_and_a_refusal_are_said() -> None:
    event = SelfConnectEvent(
        time.time(), Moment.ESTABLISHED, SourceKind.BPF, Endpoint("127.0.0.1", PORT), socket.AF_INET, None
    )
    assert "namespace is not known" in destroy_noticed(event).refused


class Storm:
    """A source with very many events."""

    kind = SourceKind.BPF
    descriptors: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.number = 0

    def read_events(self, now: float) -> list[SelfConnectEvent]:
        self.number += 1
        end = Endpoint("127.0.0.1", self.number % 65535 + 1)
        return [SelfConnectEvent(0.0, Moment.ESTABLISHED, self.kind, end, socket.AF_INET, current_namespace())]

    def state(self) -> SourceState:
        return SourceState(self.kind)

    def close(self) -> None:
        pass


def test_inspections_go_on_during_a_storm() -> None:
    watch = watcher(Storm(), every=0.05)
    rounds: set[float] = set()
    while len(rounds) < 3:
        watch.wait(1.0)
        if watch.last_round is not None:
            rounds.add(watch.last_round.taken)
    assert watch.tally.total >= 3
