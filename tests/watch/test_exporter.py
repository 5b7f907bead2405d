"""The exporter: its metrics, its log, its health, its file, and that a scrape asks the kernel nothing."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from support.itself import connected_to_itself
from support.trap import PORT, wait_for_time_wait
from tailbite.core.address import Endpoint, FourTuple
from tailbite.core.ports import PortRange, PortSet
from tailbite.errors import FirewallError
from tailbite.guards.host import firewall
from tailbite.host.see.namespaces import current_namespace
from tailbite.host.see.records import Namespace, NamespaceKind
from tailbite.kernel.sock_diag import SockDiag, TcpSocket, TcpState
from tailbite.kernel.sysctl import write_ephemeral_range
from tailbite.watch.exporter import Exporter, read_guard
from tailbite.watch.inspector import InspectionRound, Inspector, NamespaceReport
from tailbite.watch.line_writer import LineWriter
from tailbite.watch.metrics import ExporterState, StateCollector
from tailbite.watch.records import SourceKind, SourceState
from tailbite.watch.sources import PollSource
from tailbite.watch.tally import MOST_PORTS
from tailbite.watch.watcher import Watcher

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("network")


def exporter(log: LineWriter | None = None, every: float = 0.01, **options: Any) -> Exporter:
    return Exporter(Watcher(PollSource(), Inspector(only_own=True, every=every)), log, **options)


def samples(subject: Exporter) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = generate_latest(subject.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_metrics_of_a_host_with_a_self_connect() -> None:
    write_ephemeral_range(PortRange(40000, 50000))
    subject = exporter(guard=lambda: {"ipv4": True, "ipv6": False})
    assert subject.health()
    with connected_to_itself(PORT), socket.create_server(("127.0.0.1", 40001)):
        subject.step(1.0)
        found = samples(subject)
    held = (("port", str(PORT)), ("state", "held"), ("where", "host"))
    assert found["tailbite_self_connects", held] == 1
    assert found["tailbite_self_connects_total", (("port", str(PORT)), ("where", "host"))] == 1
    begun = found["tailbite_self_connects_created", (("port", str(PORT)), ("where", "host"))]
    assert found["tailbite_events_lost_created", ()] <= begun <= time.time()
    assert found["tailbite_exposed_listeners", (("port", "40001"), ("where", "host"))] == 1
    assert found["tailbite_ephemeral_port_min", ()] == 40000
    assert found["tailbite_ephemeral_port_max", ()] == 50000
    assert found["tailbite_reserved_ports", ()] == 0
    assert found["tailbite_host_guard_in_place", (("family", "ipv4"),)] == 1
    assert found["tailbite_host_guard_in_place", (("family", "ipv6"),)] == 0
    assert found["tailbite_event_source_info", (("source", "none"),)] == 1
    assert found["tailbite_namespaces", (("result", "looked_at"),)] == 1
    assert found["tailbite_looks_total", (("result", "complete"),)] == 1
    assert found["tailbite_last_look_timestamp_seconds", ()] <= time.time()
    assert found["tailbite_look_cpu_seconds_total", ()] > 0
    assert found["process_resident_memory_bytes", ()] > 0
    assert subject.health() == ""
    wait_for_time_wait()
    subject.step(1.0)
    left = (("port", str(PORT)), ("state", "time_wait"), ("where", "host"))
    assert samples(subject)["tailbite_self_connects", left] == 1
    assert samples(subject)["tailbite_self_connects_total", (("port", str(PORT)), ("where", "host"))] == 1


def test_a_scrape_asks_the_kernel_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = exporter(with_process=False)
    subject.step(1.0)

    def refuse(*_: object) -> None:
        raise AssertionError("a scrape must read memory alone")

    monkeypatch.setattr(SockDiag, "__init__", refuse)
    monkeypatch.setattr(os, "stat", refuse)
    assert generate_latest(subject.registry)


def report(namespace: Namespace, ports: range) -> NamespaceReport:
    ends = [Endpoint("127.0.0.1", port) for port in ports]
    sockets = tuple(
        TcpSocket(socket.AF_INET, TcpState.ESTABLISHED, FourTuple(end, end), 0, 0, 0, 0, 0, (0, 0)) for end in ends
    )
    return NamespaceReport(
        namespace, sockets, (None,) * len(sockets), tuple(ports), PortRange(1, 65535), PortSet(), ()
    )


def test_labels_are_bounded_whatever_a_machine_has() -> None:
    other = Namespace(7, NamespaceKind.CONTAINER, "0123456789ab", "/proc/7/ns/net", (7,))
    reports = {1: report(current_namespace(), range(1000, 1200)), 7: report(other, range(1100, 1300))}
    state = ExporterState(SourceState(SourceKind.BPF))
    state.take_round(InspectionRound(1.0, 0.1, 0.1, tuple(reports.values()), reports, 0, 0, 0, ()))
    families = {family.name: family for family in StateCollector(state).collect() if family.type == "gauge"}
    for name in ("tailbite_self_connects", "tailbite_exposed_listeners"):
        found = families[name].samples
        assert len({sample.labels["port"] for sample in found}) == MOST_PORTS + 1
        assert sum(sample.value for sample in found) == 400
        assert "0123456789ab" not in str(found)


def test_each_event_is_a_line_of_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file, connected_to_itself(PORT):
        log = LineWriter(file.fileno())
        exporter(log).step(1.0)
        log.close()
    started, event = map(json.loads, path.read_text().splitlines())
    assert (started["event"], started["source"]) == ("started", "poll")
    assert (event["schema"], event["event"], event["port"]) == ("tailbite.watch/1", "self-connect", PORT)
    assert event["name"]


def test_lost_events_are_logged_and_counted(tmp_path: Path) -> None:
    class Losing(PollSource):
        def state(self) -> SourceState:
            return SourceState(SourceKind.BPF, lost=7)

    with (tmp_path / "log").open("wb") as file:
        log = LineWriter(file.fileno())
        subject = Exporter(Watcher(Losing(), Inspector(only_own=True)), log)
        subject.step(0.0)
        subject.step(0.0)
        log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["lost"] for line in lines if line["event"] == "lost"] == [7]
    assert samples(subject)["tailbite_events_lost_total", ()] == 7


def test_an_exporter_whose_watch_ended_or_stands_still_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = exporter(every=30.0)
    subject.step(0.0)
    assert subject.health() == ""
    for jump in (-1e6, 1e6):  # the clock of the day may be set
        monkeypatch.setattr(time, "time", lambda jump=jump: jump)
        assert subject.health() == ""
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 500)
    assert re.search(r" 5\d\d s ago", subject.health())
    monkeypatch.undo()

    def fail(_: float) -> None:
        raise OSError("no more")

    monkeypatch.setattr(subject, "step", fail)
    with pytest.raises(OSError):
        subject.run()
    assert "no more" in subject.health()


def test_the_file_for_node_exporter_is_whole_and_has_no_process_metrics(tmp_path: Path) -> None:
    path = tmp_path / "tailbite.prom"
    subject = exporter(with_process=False)
    subject.step(1.0)
    subject.write_textfile(str(path))
    text = path.read_text()
    assert "tailbite_build_info" in text
    assert "process_" not in text
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == ["tailbite.prom"]  # noqa: PTH208
    with pytest.raises(OSError):
        subject.write_textfile(str(tmp_path / "missing" / "tailbite.prom"))


def test_a_firewall_that_cannot_be_read_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise FirewallError(("iptables",), 127, "not installed")

    monkeypatch.setattr(firewall, "find_firewall", refuse)
    assert read_guard() == {}


@pytest.mark.peers
def test_a_firewall_without_the_guard_has_none(peer: Any) -> None:
    peer("iptables")
    assert set(read_guard().values()) <= {False}
