"""Sources of events, and the choice of the best one that this system allows.

=========  ============================  =====================================  ==================================
source     needs                         sees                                   costs the machine
=========  ============================  =====================================  ==================================
bpf        CAP_BPF and CAP_PERFMON       every self-connect of every network    about 0.1 us for each change of a
           (before Linux 5.8:            namespace, when it is established,     TCP socket's state
           CAP_SYS_ADMIN)                with the process that dialled
destroy    nothing                       those of the own namespace, when they  a work item for each TCP socket
                                         end; not those that are disconnected   that closes; so it pauses itself
                                         or aborted after all data was read     above :data:`MOST_CLOSES`
poll       nothing                       those that are open, or in TIME-WAIT,  nothing between inspections
                                         when an inspection comes by
=========  ============================  =====================================  ==================================

Inspections (:mod:`tailbite.watch.inspector`) continue with every source: they find self-connects from before the
start.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from tailbite.core.address import FourTuple
from tailbite.host.see.namespaces import current_namespace, namespace_of_process
from tailbite.host.see.records import NotVisible
from tailbite.kernel.snmp import counted_since, read_tcp_opens
from tailbite.kernel.sock_diag import SockDiag
from tailbite.kernel.time_namespace import monotonic_offset
from tailbite.watch.records import Moment, SelfConnectEvent, SourceKind, SourceState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tailbite.host.see.records import Namespace
    from tailbite.kernel.destroy_events import Destroyed, DestroyEvents
    from tailbite.kernel.established_events import Established, EstablishedEvents
    from tailbite.kernel.snmp import TcpOpens

__all__ = ["MOST_CLOSES", "BpfSource", "DestroySource", "EventSource", "PollSource", "RateLimit", "open_source"]

MOST_CLOSES: Final = 20_000.0
"""TCP sockets that may close in a second from which on listening for destroyed sockets pauses."""
_MOST_ATTRIBUTED: Final = 256
_RATE_WINDOW_S: Final = 5.0
_RESUME_AFTER_S: Final = 60.0


class EventSource(Protocol):
    """A source of events.

    Attributes:
        kind: its name.
        descriptors: readable when there are events.
    """

    kind: SourceKind

    @property
    def descriptors(self) -> tuple[int, ...]: ...

    def read_events(self, now: float) -> list[SelfConnectEvent]:
        """Return the events since the last call, the oldest first; ``now`` is seconds of a monotonic clock."""
        ...

    def state(self) -> SourceState:
        """Return the state of the source."""
        ...

    def close(self) -> None:
        """Stop."""
        ...


class PollSource:
    """No events: only inspections find self-connects."""

    kind = SourceKind.POLL
    descriptors: tuple[int, ...] = ()

    def __init__(self, refused: Iterable[NotVisible] = ()) -> None:
        self._refused = tuple(refused)

    def read_events(self, now: float) -> list[SelfConnectEvent]:
        return []

    def state(self) -> SourceState:
        return SourceState(self.kind, refused=self._refused)

    def close(self) -> None:
        pass


class BpfSource:
    """Self-connects of the whole machine, or of one namespace, when they are established.

    Args:
        events: the kernel's.
        only_own: leave out those of other namespaces.
        refused: the better sources that this system does not allow.
        find_namespace: returns the network namespace of a process; raises OSError.
    """

    kind = SourceKind.BPF

    def __init__(
        self,
        events: EstablishedEvents,
        *,
        only_own: bool = False,
        refused: Iterable[NotVisible] = (),
        find_namespace: Callable[[int], Namespace] = namespace_of_process,
    ) -> None:
        self._events = events
        self._only_own = only_own
        self._refused = tuple(refused)
        self._find_namespace = find_namespace
        self.descriptors = events.descriptors
        self._attributed: deque[tuple[int, int]] = deque(maxlen=_MOST_ATTRIBUTED)

    def read_events(self, now: float) -> list[SelfConnectEvent]:
        # Asked each time: the system clock may be set meanwhile. The kernel's clock knows no time namespaces.
        to_epoch = time.time() - time.monotonic() + monotonic_offset()
        events = [self._event(one, to_epoch) for one in self._events.read_events()]
        return [event for event in events if not self._only_own or event.where == "host"]

    def _event(self, one: Established, to_epoch: float) -> SelfConnectEvent:
        namespace = self._namespace_of(one)
        moment = one.monotonic_ns / 1e9 + to_epoch
        return SelfConnectEvent(
            moment, Moment.ESTABLISHED, self.kind, one.endpoint, one.family, namespace, one.pid, one.name
        )

    def _namespace_of(self, one: Established) -> Namespace | None:
        """Find the namespace by the process; if that has ended, or is another user's, by the socket, in our own.

        A socket stands for one event: the same endpoint may be connected to itself in another namespace too.
        """
        place = None
        if one.pid:
            try:
                place = self._find_namespace(one.pid)
            except OSError:
                pass
        if place is not None and not place.is_own:
            return place
        cookie = _find_cookie(one)
        if cookie is None or cookie in self._attributed:
            return place
        self._attributed.append(cookie)
        return current_namespace()

    def state(self) -> SourceState:
        return SourceState(self.kind, lost=self._events.read_counts()[1], refused=self._refused)

    def close(self) -> None:
        self._events.close()


def _find_cookie(one: Established) -> tuple[int, int] | None:
    """Return the cookie of the socket of an event, if it is in our own namespace."""
    try:
        with SockDiag() as diag:
            found = diag.find(one.family, FourTuple(one.endpoint, one.endpoint))
    except OSError:
        return None
    return found.cookie if found is not None else None


class RateLimit:
    """The decision whether few enough TCP sockets close to listen to all of them. Pure.

    Args:
        most: closes in a second; above it, listening pauses until the rate was below half of it for a minute.
    """

    def __init__(self, most: float = MOST_CLOSES) -> None:
        self._most = most
        self._before: tuple[float, TcpOpens] | None = None
        self._calm_since: float | None = None
        self.is_paused = False

    def is_due(self, now: float) -> bool:
        """Tell whether the counters should be read again."""
        return self._before is None or now - self._before[0] >= _RATE_WINDOW_S

    def update(self, opens: TcpOpens, now: float) -> None:
        """Decide again: every connection that begins closes a socket later, at either end that is here."""
        if self._before is not None and now > self._before[0]:
            then, old = self._before
            closes = counted_since(old.active, opens.active) + counted_since(old.passive, opens.passive)
            self._judge(closes / (now - then), now)
        self._before = (now, opens)

    def _judge(self, rate: float, now: float) -> None:
        if rate > self._most:
            self.is_paused, self._calm_since = True, None
        elif rate > self._most / 2:
            self._calm_since = None
        elif self.is_paused:
            self._calm_since = now if self._calm_since is None else self._calm_since
            self.is_paused = now - self._calm_since < _RESUME_AFTER_S


class DestroySource:
    """Self-connects of the own namespace when they end; those of other namespaces where the kernel sends them.

    Args:
        open_events: starts listening.
        only_own: leave out those of other namespaces.
        refused: the better sources that this system does not allow.
        limit: when to pause.
        read_opens: reads the kernel's counters.

    Raises:
        OSError: the kernel has no such events.
    """

    kind = SourceKind.DESTROY

    def __init__(
        self,
        open_events: Callable[[], DestroyEvents],
        *,
        only_own: bool = False,
        refused: Iterable[NotVisible] = (),
        limit: RateLimit | None = None,
        read_opens: Callable[[], TcpOpens] = read_tcp_opens,
    ) -> None:
        self._open_events = open_events
        self._only_own = only_own
        self._refused = tuple(refused)
        self._limit = limit or RateLimit()
        self._read_opens = read_opens
        self._lost_before = 0
        self._events: DestroyEvents | None = open_events()
        self._own = current_namespace()

    @property
    def descriptors(self) -> tuple[int, ...]:
        return self._events.descriptors if self._events is not None else ()

    def read_events(self, now: float) -> list[SelfConnectEvent]:
        found = self._events.read_events() if self._events is not None else []
        if self._limit.is_due(now):
            self._follow_limit(now)
        return [self._event(one) for one in found if one.is_here or not self._only_own]

    def _event(self, one: Destroyed) -> SelfConnectEvent:
        namespace = self._own if one.is_here else None
        return SelfConnectEvent(
            one.time, Moment.ENDED, self.kind, one.endpoint, one.family, namespace, traffic=one.traffic
        )

    def _follow_limit(self, now: float) -> None:
        try:
            self._limit.update(self._read_opens(), now)
        except (OSError, ValueError):
            return  # without the counters nothing can be decided
        if self._limit.is_paused and self._events is not None:
            self._lost_before += self._events.lost
            self._events.close()
            self._events = None
        elif not self._limit.is_paused and self._events is None:
            self._events = self._open_events()

    def state(self) -> SourceState:
        lost = self._lost_before + (self._events.lost if self._events is not None else 0)
        return SourceState(self.kind, lost=lost, is_paused=self._events is None, refused=self._refused)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None


def open_source(wanted: SourceKind | None = None, *, only_own: bool = False) -> EventSource:
    """Return the best source that this system allows, or the wanted one.

    Args:
        wanted: this one and no other; None chooses.
        only_own: events of the own network namespace alone.

    Raises:
        OSError: the wanted one cannot be used here; its text says why.
    """
    refused: list[NotVisible] = []
    for kind in SourceKind:
        if wanted not in (None, kind):
            continue
        try:
            return _open(kind, only_own, refused)
        except OSError as error:
            why = _why_refused(kind, error)
            if wanted is not None:
                raise OSError(error.errno, why) from error
            refused.append(NotVisible(kind.description, why, error.errno or 0))
    return PollSource(refused)


def _open(kind: SourceKind, only_own: bool, refused: list[NotVisible]) -> EventSource:
    if kind is SourceKind.BPF:
        from tailbite.kernel.established_events import EstablishedEvents

        return BpfSource(EstablishedEvents(), only_own=only_own, refused=refused)
    if kind is SourceKind.DESTROY:
        from tailbite.kernel.destroy_events import DestroyEvents

        return DestroySource(DestroyEvents, only_own=only_own, refused=refused)
    return PollSource(refused)


def _why_refused(kind: SourceKind, error: OSError) -> str:
    import errno

    from tailbite.kernel.capabilities import (
        CAP_BPF,
        CAP_PERFMON,
        CAP_SYS_ADMIN,
        has_capability,
        is_in_user_namespace,
    )

    if kind is SourceKind.BPF and error.errno in (errno.EPERM, errno.EACCES):
        may_load = has_capability(CAP_SYS_ADMIN) or (has_capability(CAP_BPF) and has_capability(CAP_PERFMON))
        if may_load and is_in_user_namespace():
            return "eBPF needs root of the host, not of a user namespace (a rootless container)"
        if may_load:
            return "refused although the capabilities are there: by kernel lockdown, or a seccomp profile"
        return "eBPF needs root, or CAP_BPF and CAP_PERFMON"
    return str(error.strerror or error)
