"""The exporter: a watch in a thread, whose state is served to Prometheus or written for node_exporter."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from tailbite._files import write_atomically
from tailbite.errors import FirewallError
from tailbite.watch.document import as_line, event_fields, source_fields
from tailbite.watch.metrics import ExporterState, StateCollector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tailbite.watch.inspector import InspectionRound
    from tailbite.watch.line_writer import LineWriter
    from tailbite.watch.watcher import Watcher

__all__ = ["Exporter", "read_guard"]

_WAIT_S: Final = 1.0
_GUARD_EVERY_S: Final = 300.0
_LATE: Final = 4
"""Rounds that may be missed before the exporter is unhealthy."""


class Exporter:
    """Watches, and keeps what Prometheus asks for.

    Args:
        watcher: the watch.
        log: where each event becomes a line of JSON; None logs nothing.
        guard: reads whether the host guard is in place, by family; None does not ask.
        with_process: offer the exporter's own process_* metrics too.

    Attributes:
        error: what ended the watch, if it was not :meth:`stop`.
        state: what scrapes read.
        registry: the metrics, for prometheus-client.
        changes: how often the metrics changed: by an inspection, or by something that was noticed.
    """

    def __init__(
        self,
        watcher: Watcher,
        log: LineWriter | None = None,
        *,
        guard: Callable[[], Mapping[str, bool]] | None = None,
        with_process: bool = True,
    ) -> None:
        self._watcher = watcher
        self._log = log
        self._guard = guard
        self._guard_due = 0.0
        self._inspected_at: float | None = None
        self.changes = 0
        self._lost = 0
        self._stopped = threading.Event()
        self.error: BaseException | None = None
        self.state = ExporterState(watcher.source.state())
        self.registry = CollectorRegistry()
        self.registry.register(StateCollector(self.state))
        if with_process:
            ProcessCollector(registry=self.registry)
        watcher.on_round = self._take_round
        if log is not None:
            log.put_line(as_line({"event": "started", **source_fields(self.state.source)}))

    def run(self) -> None:
        """Watch until :meth:`stop`; what ends it otherwise is in ``error``."""
        try:
            while not self._stopped.is_set():
                self.step(_WAIT_S)
        except BaseException as error:
            self.error = error
            raise

    def stop(self) -> None:
        """End :meth:`run`, within a second."""
        self._stopped.set()

    def step(self, timeout: float) -> None:
        """Wait for events or an inspection, and take over what was noticed."""
        noticed = self._watcher.wait(timeout)
        if self._log is not None:
            for one in noticed:
                self._log.put_line(as_line(event_fields(one)))
            self.state.log_dropped = self._log.dropped
        self.state.take_counts(self._watcher)
        if self._log is not None and self.state.source.lost > self._lost:
            self._lost = self.state.source.lost
            self._log.put_line(as_line({"event": "lost", **source_fields(self.state.source)}))
        self.changes += bool(noticed)

    def _take_round(self, found: InspectionRound) -> None:
        if self._guard is not None and time.monotonic() >= self._guard_due:
            self._guard_due = time.monotonic() + _GUARD_EVERY_S
            guard = self._guard()
            with self.state.lock:
                self.state.guard = guard
        self._inspected_at = time.monotonic()
        self.state.take_round(found)
        self.state.take_counts(self._watcher)
        self.changes += 1

    def health(self) -> str:
        """Return "" if inspections continue, or a sentence that says what is wrong."""
        if self.error is not None:
            return f"The watch has ended: {self.error}"
        if self._inspected_at is None:
            return "The first inspection has not ended yet."
        age = time.monotonic() - self._inspected_at
        if age > _LATE * self._watcher.inspector.every + 1:
            return f"The last inspection was {age:.0f} s ago."
        return ""

    def write_textfile(self, path: str) -> None:
        """Write the metrics for node_exporter's textfile collector, atomically.

        Raises:
            OSError: it cannot be written.
        """
        write_atomically(Path(path), generate_latest(self.registry), mode=0o644)


def read_guard() -> dict[str, bool]:
    """Return whether the host guard refuses self-connects, by family; a family that cannot be read is missing."""
    from tailbite.guards.host.firewall import VERSIONS, find_firewall, read_state

    found = {}
    for version in VERSIONS:
        name = {4: "ipv4", 6: "ipv6"}[version]
        with suppress(FirewallError):
            firewall = find_firewall(version)
            # Asking the legacy variant for a table that is not there would load it.
            found[name] = _has_table(firewall.variant, version) and read_state(firewall).is_installed
    return found


def _has_table(variant: str, version: int) -> bool:
    if variant != "legacy":
        return True
    try:
        tables = Path(f"/proc/net/{'ip' if version == 4 else 'ip6'}_tables_names").read_text(encoding="ascii")
    except OSError:
        return False
    return "filter" in tables.split()
