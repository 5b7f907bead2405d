"""The ends of self-connects that each source sees (the table of docs/watch.md), and the choice between sources."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from support.itself import ENDINGS, connected_to_itself
from support.limits import without
from support.machine_events import machine_events, own_port, without_loss
from support.users import python_as_nobody
from tailbite.core.address import Endpoint
from tailbite.host.see.namespaces import current_namespace
from tailbite.kernel.destroy_events import DestroyEvents
from tailbite.kernel.established_events import Established, EstablishedEvents
from tailbite.kernel.namespace import fresh_network
from tailbite.kernel.snmp import TcpOpens
from tailbite.watch.inspector import inspect_namespace
from tailbite.watch.records import Moment, SourceKind
from tailbite.watch.sources import MOST_CLOSES, BpfSource, DestroySource, PollSource, RateLimit, open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tailbite.watch.records import SelfConnectEvent
    from tailbite.watch.sources import EventSource

PORT = own_port(10_000, 4)
"""Of this file alone: the events of the machine are those of other tests too."""


@pytest.fixture(autouse=True)
def shared_events() -> Iterator[None]:
    with machine_events():
        yield


def wait_for_port(source: EventSource, port: int) -> SelfConnectEvent:
    while True:  # the test's time limit ends a failure
        for event in source.read_events(time.monotonic()):
            if event.endpoint.port == port and event.where != "container":
                return event


@pytest.mark.needs("BPF_TRACEPOINT", "SOCK_DESTROY")
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(("end", "is_found", "is_reported"), ENDINGS.values(), ids=ENDINGS)
def test_the_table_of_endings(end: Callable[[int], None], is_found: bool, is_reported: bool) -> None:
    bpf = BpfSource(EstablishedEvents())
    destroy = DestroySource(DestroyEvents)
    try:
        end(PORT)
        assert wait_for_port(bpf, PORT).moment is Moment.ESTABLISHED
        report = inspect_namespace(current_namespace())
        assert report is not None
        assert bool(report.self_connects) is is_found
        if is_reported:
            assert wait_for_port(destroy, PORT).moment is Moment.ENDED
        else:
            # Ends are reported by a work queue, so wait for that of another self-connect.
            connected_to_itself(PORT + 1).close()
            wait_for_port(destroy, PORT + 1)
            assert [one for one in destroy.read_events(0.0) if one.endpoint.port == PORT] == []
    finally:
        bpf.close()
        destroy.close()


@pytest.mark.needs("BPF_TRACEPOINT")
@pytest.mark.usefixtures("network")
def test_ebpf_names_the_process_and_its_namespace_and_leaves_others_out_if_told() -> None:
    everything, own = BpfSource(EstablishedEvents()), BpfSource(EstablishedEvents(), only_own=True)
    with connected_to_itself(PORT):
        event = wait_for_port(everything, PORT)
        assert event.namespace == current_namespace()
        assert event.pid
        assert event.name
        assert abs(event.time - time.time()) < 60
        assert PORT in [one.endpoint.port for one in own.read_events(0.0)]
    with fresh_network():
        sock = connected_to_itself(PORT)
    # The process is found in the namespace where it is now, not in the one where the socket was made.
    assert PORT in [one.endpoint.port for one in own.read_events(0.0)]
    sock.close()
    everything.close()
    own.close()


@pytest.mark.needs("BPF_TRACEPOINT")
@pytest.mark.usefixtures("network")
def test_a_process_that_has_ended_leaves_its_namespace_unknown() -> None:
    """Unless its socket is found in our own: here it left a TIME-WAIT."""
    source = BpfSource(EstablishedEvents())
    code = f"import socket; s = socket.socket(); s.bind(('127.0.0.1', {PORT})); s.connect(('127.0.0.1', {PORT}))"

    def lost() -> int:
        return source.state().lost

    def places() -> list[str]:
        return [one.where for one in source.read_events(0.0) if one.endpoint.port == PORT]

    def read_outside() -> list[str]:
        with fresh_network():
            subprocess.run([sys.executable, "-c", code], check=True)
        return places()

    def read_inside() -> list[str]:
        with fresh_network():
            subprocess.run([sys.executable, "-c", code], check=True)
            return places()

    assert "unknown" in without_loss(lost, read_outside)
    assert "host" in without_loss(lost, read_inside)
    source.close()


def test_the_time_of_an_event_follows_a_clock_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    class One(EstablishedEvents):
        descriptors = ()

        def __init__(self) -> None:
            pass

        def read_events(self) -> list[Established]:
            return [Established(time.monotonic_ns(), socket.AF_INET, Endpoint("127.0.0.1", PORT), 0, "")]

    source = BpfSource(One())
    now = time.time() + 86_400.0
    monkeypatch.setattr(time, "time", lambda: now)
    (event,) = source.read_events(0.0)
    assert abs(event.time - now) < 60.0


@pytest.mark.needs("BPF_TRACEPOINT")
def test_the_best_source_is_chosen() -> None:
    source = open_source()
    assert source.kind is SourceKind.BPF
    assert source.state().refused == ()
    source.close()


CHOOSE = """
from tailbite.watch.sources import open_source
state = open_source().state()
print(state.kind.value, *(one.why for one in state.refused), sep="|")
"""


@pytest.mark.usefixtures("network")
def test_nobody_gets_the_destroyed_sockets_and_the_reason() -> None:
    done = subprocess.run(python_as_nobody("-c", CHOOSE), capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("destroy|eBPF needs root, or CAP_BPF and CAP_PERFMON\n", "")


@pytest.mark.needs("BPF_TRACEPOINT")
@pytest.mark.usefixtures("network")
def test_lockdown_is_told_from_a_missing_capability() -> None:
    done = subprocess.run([*without("BPF"), sys.executable, "-c", CHOOSE], capture_output=True, text=True, timeout=60)
    why = "refused although the capabilities are there: by kernel lockdown, or a seccomp profile"
    assert (done.stdout, done.stderr) == (f"destroy|{why}\n", "")


@pytest.mark.peers
def test_root_of_a_user_namespace_is_told_so(peer: Callable[[str], str]) -> None:
    command = [peer("unshare"), "--user", "--map-root-user", "--net", sys.executable, "-c", CHOOSE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    why = "eBPF needs root of the host, not of a user namespace (a rootless container)"
    assert (done.stdout, done.stderr) == (f"destroy|{why}\n", "")


def test_a_source_asked_for_by_name_is_that_one_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr("tailbite.kernel.established_events.EstablishedEvents.__init__", refuse)
    monkeypatch.setattr("tailbite.kernel.destroy_events.DestroyEvents.__init__", refuse)
    with pytest.raises(PermissionError):
        open_source(SourceKind.BPF)
    with pytest.raises(PermissionError):
        open_source(SourceKind.DESTROY)
    assert isinstance(open_source(SourceKind.POLL), PollSource)
    chosen = open_source()
    assert chosen.kind is SourceKind.POLL
    assert len(chosen.state().refused) == 2
    assert chosen.read_events(0.0) == []
    assert chosen.descriptors == ()


def test_listening_pauses_above_the_rate_and_goes_on_a_minute_after_it_fell() -> None:
    limit = RateLimit()
    opened = 0
    states = []
    for second in range(0, 200, 5):
        opened += int(5 * (MOST_CLOSES + 1 if second < 50 else 10))
        assert limit.is_due(second)
        limit.update(TcpOpens(opened, 0), second)
        states.append(limit.is_paused)
        assert not limit.is_due(second + 1)
    assert states == [False] + [True] * 21 + [False] * 18


def test_a_counter_that_wraps_is_no_storm() -> None:
    limit = RateLimit()
    limit.update(TcpOpens(2**32 - 10, 2**64 - 10), 0.0)
    limit.update(TcpOpens(10, 10), 5.0)
    assert not limit.is_paused


@pytest.mark.usefixtures("network")
def test_a_paused_source_has_left_the_groups_and_comes_back() -> None:
    opens = iter([TcpOpens(0, 0)])
    source = DestroySource(DestroyEvents, limit=RateLimit(), read_opens=lambda: next(opens, TcpOpens(10**9, 0)))
    source.read_events(0.0)
    assert source.descriptors
    source.read_events(5.0)
    assert source.state().is_paused
    assert source.descriptors == ()
    connected_to_itself(PORT).close()
    assert source.read_events(10.0) == []
    source.read_events(80.0)
    assert not source.state().is_paused
    connected_to_itself(PORT + 1).close()
    assert wait_for_port(source, PORT + 1).namespace == current_namespace()
    source.close()
    source.close()


@pytest.mark.usefixtures("network")
def test_without_the_counters_listening_goes_on() -> None:
    def fail() -> TcpOpens:
        raise FileNotFoundError

    source = DestroySource(DestroyEvents, read_opens=fail)
    source.read_events(0.0)
    assert not source.state().is_paused
    source.close()
