"""The metrics of ``tailbite exporter``: a state in memory, and its form for prometheus-client.

Names and labels follow https://prometheus.io/docs/practices/naming/. A label never holds a process, a container or an
address: those are without bound, and stand in the log. A scrape reads what is in memory and asks the kernel nothing.

The names and label values are public, so they stay: there a *look* is a round of inspections, ``looked_at`` means
inspected, and ``blind`` means that something was not visible.
"""

from __future__ import annotations

import platform
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

from tailbite._version import __version__
from tailbite.kernel.release import kernel_release
from tailbite.kernel.sock_diag import TcpState
from tailbite.watch.records import SourceKind
from tailbite.watch.tally import MOST_PORTS, OTHER_PORTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client import Metric

    from tailbite.watch.inspector import InspectionRound, NamespaceReport
    from tailbite.watch.records import SourceState
    from tailbite.watch.watcher import Watcher

__all__ = ["ExporterState", "StateCollector"]

_RESULTS: Final = ("complete", "blind", "failed")
_PLACES: Final = ("host", "container")
_Labels = tuple[int, tuple[str, ...]]  # a port, and the values of the other labels


@dataclass(slots=True)
class ExporterState:
    """The state of the exporter, written by the watch and read by scrapes.

    Attributes:
        source: the source of events.
        last_round: the last inspections; None before the first.
        totals: self-connects since the start, by the port's label and the place.
        begun: when each of these totals began, seconds since the epoch.
        started: when the exporter did.
        rounds: rounds of inspections, by result.
        cpu: seconds of CPU time that all inspections took.
        guard: whether the host guard is in place, by family; a family that cannot be read is missing.
        log_dropped: events that are not in the log because its reader was too slow.
        lock: held while any of these is read or written.
    """

    source: SourceState
    last_round: InspectionRound | None = None
    totals: Mapping[tuple[str, str], int] = field(default_factory=dict)
    begun: dict[tuple[str, str], float] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    rounds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_RESULTS, 0))
    cpu: float = 0.0
    guard: Mapping[str, bool] = field(default_factory=dict)
    log_dropped: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take_round(self, found: InspectionRound) -> None:
        """Take over the outcome of a round."""
        with self.lock:
            self.last_round = found
            self.cpu += found.cpu
            self.rounds["failed" if found.is_own_unseen else "complete" if found.is_complete else "blind"] += 1

    def take_counts(self, watcher: Watcher) -> None:
        """Take over the totals and the state of the source."""
        with self.lock:
            self.totals = dict(watcher.tally.by_label)
            for label in self.totals:
                self.begun.setdefault(label, time.time())
            self.source = watcher.source.state()


class StateCollector:
    """Presents a state to prometheus-client; a collector of its registry."""

    def __init__(self, state: ExporterState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        state = self._state
        with state.lock:
            yield from _about(state)
            yield _totals(state)
            yield _rounds(state)
            yield _counter("tailbite_look_cpu_seconds", "CPU time that inspections took.", state.cpu)
            yield _counter("tailbite_log_lines_dropped", "Events that are not in the log.", state.log_dropped)
            yield _guard(state)
            if state.last_round is not None:
                yield from _about_round(state.last_round)


def _about(state: ExporterState) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "tailbite_build",
        "Version of tailbite, and where it runs.",
        {"version": __version__, "python": platform.python_version(), "kernel": kernel_release()},
    )
    source = "none" if state.source.is_paused or state.source.kind is SourceKind.POLL else state.source.kind.value
    yield InfoMetricFamily("tailbite_event_source", "Source of events: bpf, destroy or none.", {"source": source})
    lost = "Events lost; with the source destroy, how many times some were."
    yield CounterMetricFamily("tailbite_events_lost", lost, value=state.source.lost, created=state.started)


def _totals(state: ExporterState) -> Metric:
    text = "Self-connects since the start; exact with the source bpf, at least so many with others."
    family = CounterMetricFamily("tailbite_self_connects", text, labels=("port", "where"))
    for (port, where), number in sorted(state.totals.items()):
        # increase() does not see the first event of a series: the rules ask when the series began.
        family.add_metric((port, where), number, created=state.begun.get((port, where), state.started))
    return family


def _rounds(state: ExporterState) -> Metric:
    text = "Rounds of inspections, by result: complete, `blind` (not everything was visible) or failed."
    family = CounterMetricFamily("tailbite_looks", text, labels=("result",))
    for result in _RESULTS:
        family.add_metric((result,), state.rounds[result])
    return family


def _guard(state: ExporterState) -> Metric:
    text = "Whether the firewall refuses self-connects (1) or not (0)."
    family = GaugeMetricFamily("tailbite_host_guard_in_place", text, labels=("family",))
    for name, is_in_place in sorted(state.guard.items()):
        family.add_metric((name,), int(is_in_place))
    return family


def _about_round(found: InspectionRound) -> Iterator[Metric]:
    yield _gauge("tailbite_last_look_timestamp_seconds", "When the last inspection began.", found.taken)
    yield _gauge("tailbite_look_duration_seconds", "Duration of the last round of inspections.", found.duration)
    namespaces = GaugeMetricFamily(
        "tailbite_namespaces",
        "Network namespaces in the last round: looked_at, skipped_empty (no TCP socket), deferred (due, but "
        "beyond the budget), unseen (not permitted, at least so many).",
        labels=("result",),
    )
    counts = (("looked_at", len(found.inspected)), ("skipped_empty", found.skipped), ("deferred", found.deferred))
    for result, number in (*counts, ("unseen", found.unseen)):
        namespaces.add_metric((result,), number)
    yield namespaces
    reports = tuple(found.reports.values())
    yield _open_now(reports)
    yield _exposed(reports)
    yield from _own_ports(reports)


def _open_now(reports: Iterable[NamespaceReport]) -> Metric:
    text = "Sockets connected to themselves at the last inspection: held open, or left behind in TIME-WAIT."
    family = GaugeMetricFamily("tailbite_self_connects", text, labels=("port", "state", "where"))
    counts: dict[_Labels, int] = {}
    for report in reports:
        where = _PLACES[not report.namespace.is_own]
        for one in report.self_connects:
            state = "time_wait" if one.state is TcpState.TIME_WAIT else "held"
            key = one.endpoints.local.port, (state, where)
            counts[key] = counts.get(key, 0) + 1
    for labels, number in _bounded(counts):
        family.add_metric(labels, number)
    return family


def _exposed(reports: Iterable[NamespaceReport]) -> Metric:
    text = "Listening ports in the ephemeral range, not reserved: a client can get one while its server is down."
    family = GaugeMetricFamily("tailbite_exposed_listeners", text, labels=("port", "where"))
    counts: dict[_Labels, int] = {}
    for report in reports:
        for port in report.exposed:
            key = port, (_PLACES[not report.namespace.is_own],)
            counts[key] = counts.get(key, 0) + 1
    for labels, number in _bounded(counts):
        family.add_metric(labels, number)
    return family


def _bounded(counts: Mapping[_Labels, int]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Give the lowest ports a label of their own, and add the others up."""
    ports = set(sorted({key[0] for key in counts})[:MOST_PORTS])
    summed: dict[tuple[str, ...], int] = {}
    for (port, rest), number in counts.items():
        labels = str(port) if port in ports else OTHER_PORTS, *rest
        summed[labels] = summed.get(labels, 0) + number
    yield from sorted(summed.items())


def _own_ports(reports: Iterable[NamespaceReport]) -> Iterator[Metric]:
    own = next((report for report in reports if report.namespace.is_own), None)
    if own is None:
        return
    if own.ephemeral is not None:
        yield _gauge("tailbite_ephemeral_port_min", "Lowest port of ip_local_port_range.", own.ephemeral.low)
        yield _gauge("tailbite_ephemeral_port_max", "Highest port of ip_local_port_range.", own.ephemeral.high)
    if own.reserved is not None:
        yield _gauge("tailbite_reserved_ports", "Ports in ip_local_reserved_ports.", len(own.reserved))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
