"""The loop of a watch: events as they come, inspections in between, each self-connect counted once."""

from __future__ import annotations

import select
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tailbite.host.see.processes import describe_process, find_holders
from tailbite.kernel.sock_diag import TcpState
from tailbite.watch.killer import confirm_port_free, destroy_noticed
from tailbite.watch.records import Moment, SelfConnectEvent, SourceKind
from tailbite.watch.tally import MOST_REMEMBERED, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tailbite.core.address import Endpoint
    from tailbite.watch.inspector import InspectionRound, Inspector, NamespaceReport
    from tailbite.watch.sources import EventSource

__all__ = ["Noticed", "Watcher"]

_SOON_S: Final = 1.0
"""Least time between two inspections that events cause."""
_SOON_SHARE: Final = 0.02
"""The part of one CPU that such inspections may take."""


@dataclass(frozen=True, slots=True)
class Noticed:
    """A self-connect that was noticed.

    Attributes:
        event: what is known of it.
        is_new: True if it was not counted before.
    """

    event: SelfConnectEvent
    is_new: bool


class Watcher:
    """Waits for events and inspects in turn.

    Args:
        source: the events.
        inspector: the inspections.
        kill: destroy each self-connect that is noticed.
        clock: seconds of a monotonic clock.

    Attributes:
        tally: the counts.
        last_round: the last inspections; None before the first.
        events_lost: events known to be lost.
    """

    def __init__(
        self,
        source: EventSource,
        inspector: Inspector,
        *,
        kill: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.inspector = inspector
        self.tally = Tally()
        self.last_round: InspectionRound | None = None
        self.on_round: Callable[[InspectionRound], None] = lambda _: None
        self._kill = kill
        self._clock = clock
        self._due = clock()
        self._inspected_at = float("-inf")
        self._lost = 0
        self._refusals: dict[tuple[int, Endpoint], str] = {}

    def wait(self, timeout: float) -> list[Noticed]:
        """Wait for events or an inspection, at most ``timeout`` seconds; return what was noticed."""
        now = self._clock()
        _wait_readable(self.source.descriptors, max(min(timeout, self._due - now), 0.0))
        noticed = self._read_events()
        if self._clock() >= self._due:
            return noticed + self._inspect()
        self._inspect_soon_after(noticed)
        return noticed

    def _read_events(self) -> list[Noticed]:
        events = self.source.read_events(self._clock())
        if self._kill:  # all of them, before anything else takes time
            events = [_destroy(event) for event in events]
        return [self._notice(event) for event in events]

    def _inspect_soon_after(self, noticed: list[Noticed]) -> None:
        if any(one.is_new for one in noticed):
            self._due = min(self._due, max(self._clock(), self._inspected_at + self._pause()))

    def _pause(self) -> float:
        """Return the seconds to wait before an event causes another inspection: the last one may have taken long."""
        return max(_SOON_S, self.last_round.cpu / _SOON_SHARE if self.last_round is not None else 0.0)

    def _notice(self, event: SelfConnectEvent) -> Noticed:
        if event.end is not None:
            event = replace(event, end=confirm_port_free(event, event.end))
            self._is_news(event)
        if event.pid:
            event = replace(event, process=describe_process(event.pid))
        inode = event.namespace.inode if event.namespace is not None else 0
        is_new = self.tally.notice(event.moment, inode, event.endpoint, self._clock(), where=event.where)
        self.inspector.name(event.namespace)
        return Noticed(event, is_new)

    def _inspect(self) -> list[Noticed]:
        now = self._clock()
        state = self.source.state()
        is_told_all = state.kind is SourceKind.BPF and state.lost == self._lost
        self._lost = state.lost
        self.last_round = self.inspector.inspect_round(now, is_told_all=is_told_all)
        self._inspected_at = now
        # A round that took long must not follow itself at once.
        self._due = max(now + self.inspector.every, self._clock() + self.inspector.every / 2)
        # The kernel reports a socket before it shows it as established. Events that are read after the inspection
        # tell of everything that it found, so that each self-connect counts once.
        noticed = self._read_events()
        self._inspect_soon_after(noticed)
        noticed += [one for report in self.last_round.inspected for one in self._notice_report(report)]
        self.on_round(self.last_round)
        return noticed

    def _notice_report(self, report: NamespaceReport) -> Iterator[Noticed]:
        owners, _ = find_holders(report.self_connects)
        for socket, traffic in zip(report.self_connects, report.traffic, strict=True):
            process = next(iter(owners.get(socket.inode, ())), None)
            event = SelfConnectEvent(
                time=time.time(),
                moment=Moment.FOUND,
                source=SourceKind.POLL,
                endpoint=socket.endpoints.local,
                family=socket.family,
                namespace=report.namespace,
                pid=process.pid if process else 0,
                name=process.name if process else "",
                process=process,
                uid=socket.uid,
                traffic=traffic,
            )
            is_open = socket.state is not TcpState.TIME_WAIT
            is_new = self.tally.notice(
                Moment.FOUND,
                report.namespace.inode,
                event.endpoint,
                self._clock(),
                where=event.where,
                is_open=is_open,
                cookie=socket.cookie if is_open else None,
            )
            if self._kill:
                event = replace(event, end=confirm_port_free(event, destroy_noticed(event)))
            if self._is_news(event) or is_new:
                yield Noticed(event, is_new)

    def _is_news(self, event: SelfConnectEvent) -> bool:
        """Tell whether a self-connect was destroyed, or could not be for a reason that was not reported of it yet."""
        if event.end is None:
            return False
        key = (event.namespace.inode if event.namespace is not None else 0, event.endpoint)
        before = self._refusals.pop(key, "")
        if event.end.refused:
            self._refusals[key] = event.end.refused
        while len(self._refusals) > MOST_REMEMBERED:
            del self._refusals[next(iter(self._refusals))]
        return event.end.is_destroyed or event.end.refused not in ("", before)


def _destroy(event: SelfConnectEvent) -> SelfConnectEvent:
    """Destroy what an event reports; of one that has ended, the TIME-WAIT that may be left."""
    if event.moment is not Moment.ENDED:
        return replace(event, end=destroy_noticed(event))
    if event.namespace is None:
        return event
    end = destroy_noticed(event)
    return replace(event, end=end) if end.is_destroyed or end.refused else event


def _wait_readable(descriptors: tuple[int, ...], seconds: float) -> None:
    """Wait until one of them is readable; without any, wait for the time alone."""
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    poller.poll(seconds * 1000)
