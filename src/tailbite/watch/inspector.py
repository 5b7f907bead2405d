"""Repeated inspections of every network namespace, within a budget of CPU time.

The cost of an inspection is the walk of the table of connections, which all namespaces share. Two kinds of namespace
are inspected without a walk: one whose TCP sockets all listen; and, while the source of events reports every
self-connect (eBPF, and nothing lost), one that had no self-connect at its last walk and no event since. The second
kind is walked again after :data:`WALK_EVERY_S` in any case.

A walk takes longer the more sockets there are: 0.2 to 0.4 s for a million. A namespace whose inspection took more CPU
time than the budget allows in :data:`EVERY_S` rests until the budget has paid for it, at most for a TIME-WAIT's life.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from tailbite.host.see.inspect import Inspection
from tailbite.host.see.namespaces import current_namespace, visible_namespaces
from tailbite.host.see.records import NotVisible
from tailbite.host.see.usage import are_listeners_all, read_usage, usage_here
from tailbite.host.see.visit import call_in_namespace
from tailbite.kernel.sock_diag import TcpState
from tailbite.kernel.sysctl import read_ephemeral_range, read_reserved_ports
from tailbite.watch.rounds import ROUND_S, Candidate, Rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailbite.core.ports import PortRange, PortSet
    from tailbite.host.see.records import Namespace
    from tailbite.kernel.sock_diag import TcpSocket
    from tailbite.kernel.tcp_info import TcpInfo

__all__ = ["BUDGET", "EVERY_S", "WALK_EVERY_S", "InspectionRound", "Inspector", "NamespaceReport"]

EVERY_S: Final = 15.0
BUDGET: Final = 0.005
"""The part of one CPU that inspections of other namespaces may take."""
WALK_EVERY_S: Final = 300.0
"""Longest time for which the events of a namespace are relied on without an inspection of its connections."""


@dataclass(frozen=True, slots=True)
class NamespaceReport:
    """One namespace at its last inspection.

    Attributes:
        namespace: which one.
        self_connects: its self-connected sockets, TIME-WAIT included.
        traffic: the counters of each of them; None for one in TIME-WAIT.
        exposed: ports that servers listen on and that the kernel may choose for a client.
        ephemeral: ``ip_local_port_range``; None if unknown.
        reserved: ``ip_local_reserved_ports``; None if unknown.
        not_visible: what could not be inspected.
    """

    namespace: Namespace
    self_connects: tuple[TcpSocket, ...] = ()
    traffic: tuple[TcpInfo | None, ...] = ()
    exposed: tuple[int, ...] = ()
    ephemeral: PortRange | None = None
    reserved: PortSet | None = None
    not_visible: tuple[NotVisible, ...] = ()


@dataclass(frozen=True, slots=True)
class InspectionRound:
    """The outcome of one round of inspections.

    Attributes:
        taken: seconds since the epoch.
        duration: seconds that it took.
        cpu: seconds of CPU time that it took.
        inspected: the namespaces inspected in this round.
        reports: the latest report of every namespace that exists, by inode.
        skipped: how many namespaces have no TCP socket.
        deferred: how many were due, and did not fit into the budget; those that rest included.
        unseen: how many could not be inspected.
        not_visible: what could not be seen, in words.
        is_own_unseen: True if the own namespace could not be inspected.
    """

    taken: float
    duration: float
    cpu: float
    inspected: tuple[NamespaceReport, ...]
    reports: dict[int, NamespaceReport]
    skipped: int
    deferred: int
    unseen: int
    not_visible: tuple[NotVisible, ...]
    is_own_unseen: bool = False

    @property
    def is_complete(self) -> bool:
        """True if everything could be seen."""
        return not self.not_visible


class Inspector:
    """Inspects namespaces again and again.

    Args:
        only_own: inspect the own namespace alone.
        every: seconds between two rounds.
        budget: the part of one CPU that inspections may take. The own namespace, and one other, are inspected
            within a TIME-WAIT's life whatever they cost.
        cpu_clock: returns seconds of CPU time.
        within: the time in which each namespace should be inspected, seconds.
    """

    def __init__(
        self,
        *,
        only_own: bool = False,
        every: float = EVERY_S,
        budget: float = BUDGET,
        cpu_clock: Callable[[], float] = time.thread_time,
        within: float = ROUND_S,
    ) -> None:
        self.every = every
        self._only_own = only_own
        self._budget = budget
        self._allowance = budget * every
        self._most_debt = budget * max(within, every)
        self._cpu_clock = cpu_clock
        self._rounds = Rounds(within=within, every=every)
        self._reports: dict[int, NamespaceReport] = {}
        self._walked: dict[int, float] = {}
        self._debt = 0.0
        self._other_inspected_at = float("-inf")

    def name(self, namespace: Namespace | None) -> None:
        """Have a namespace inspected in the next round; None, an unknown one, names all that are known."""
        for inode in self._reports if namespace is None else (namespace.inode,):
            self._rounds.name(inode)

    def inspect_round(self, now: float, *, is_told_all: bool = False) -> InspectionRound:
        """Inspect what is due, as far as the budget goes.

        Args:
            now: seconds of a monotonic clock.
            is_told_all: True if :meth:`name` was called for every self-connect since the last round.
        """
        taken, start, cpu_start = time.time(), time.monotonic(), self._cpu_clock()
        namespaces, not_visible = ((current_namespace(),), ()) if self._only_own else visible_namespaces()
        by_inode = {one.inode: one for one in namespaces}
        self._walked = {inode: when for inode, when in self._walked.items() if is_told_all and inode in by_inode}
        empty = {one.inode for one in namespaces if not one.is_own and _is_empty(one)}
        due = self._rounds.plan((Candidate(one.inode, one.is_own, one.inode in empty) for one in namespaces), now)
        visits = self._visit([by_inode[inode] for inode in due], cpu_start, now)
        seen = [report for report in visits.values() if report is not None]
        inspected = tuple(report for report in seen if report.ephemeral is not None)
        unseen = [report for report in seen if report.ephemeral is None]
        gone = {inode for inode, report in visits.items() if report is None}
        self._reports = {
            **{inode: one for inode, one in self._reports.items() if inode in by_inode.keys() - gone},
            **{inode: NamespaceReport(by_inode[inode]) for inode in empty},
            **{one.namespace.inode: one for one in inspected},
        }
        return InspectionRound(
            taken=taken,
            duration=time.monotonic() - start,
            cpu=self._cpu_clock() - cpu_start,
            inspected=inspected,
            reports=dict(self._reports),
            skipped=len(empty),
            deferred=len(due) - len(visits) + self._rounds.resting,
            unseen=len(unseen) + len(not_visible),
            not_visible=tuple(dict.fromkeys([*not_visible, *(what for one in seen for what in one.not_visible)])),
            is_own_unseen=any(report.namespace.is_own for report in unseen),
        )

    def _visit(
        self, namespaces: Sequence[Namespace], cpu_start: float, now: float
    ) -> dict[int, NamespaceReport | None]:
        """Inspect namespaces until the budget is spent; return what was found by inode, None for one that is gone.

        If a round exceeds the budget, the next rounds get less. The own namespace is inspected whenever it is due;
        what it takes beyond the allowance of a round does not reduce that of the others.
        """
        visits: dict[int, NamespaceReport | None] = {}
        allowance, others = self._allowance - self._debt, 0
        spent, free = self._cpu_clock() - cpu_start, 0.0
        for namespace in namespaces:
            charged = spent - free
            if not namespace.is_own and not (
                charged + charged / len(visits) <= allowance if others else self._is_other_affordable(allowance, now)
            ):
                break
            visits[namespace.inode] = self._inspect(namespace, now)
            before, spent = spent, self._cpu_clock() - cpu_start
            self._let_rest(namespace, spent - before, now)
            if namespace.is_own:
                free = max(spent - before - self._allowance, 0.0)
            else:
                others, self._other_inspected_at = others + 1, now
        self._debt = min(max(spent - free - allowance, 0.0), self._most_debt)
        return visits

    def _is_other_affordable(self, allowance: float, now: float) -> bool:
        return allowance > 0 or now - self._other_inspected_at >= self._rounds.longest_wait

    def _let_rest(self, namespace: Namespace, cost: float, now: float) -> None:
        if cost > self._budget * EVERY_S:
            self._rounds.rest(namespace.inode, now + cost / self._budget, now)

    def _inspect(self, namespace: Namespace, now: float) -> NamespaceReport | None:
        is_walked = not self._is_known_clean(namespace.inode, now)
        report = inspect_namespace(namespace, is_walked=is_walked)
        if report is None:
            return None
        if is_walked and not report.not_visible:
            self._walked[namespace.inode] = now
        self._rounds.inspected(namespace.inode, now)
        return report

    def _is_known_clean(self, inode: int, now: float) -> bool:
        """Tell whether a namespace had no self-connect at its last walk, and nothing was reported of it since."""
        report = self._reports.get(inode)
        if report is None or report.self_connects or self._rounds.is_named(inode):
            return False
        return now - self._walked.get(inode, float("-inf")) < WALK_EVERY_S


def _is_empty(namespace: Namespace) -> bool:
    usage = read_usage(namespace)
    return usage is not None and usage.is_empty


def inspect_namespace(namespace: Namespace, *, is_walked: bool = True) -> NamespaceReport | None:
    """Inspect one namespace. Never raises for what the kernel refuses: that becomes ``not_visible``.

    Args:
        namespace: which one.
        is_walked: False if it is known that nothing there is connected to itself.

    Returns:
        None if the namespace has vanished since it was listed, or the process that leads into it has: then the next
        round finds it by another process.
    """
    try:
        return call_in_namespace(namespace, partial(_inspect_here, namespace, is_walked))
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError as error:
        return NamespaceReport(namespace, not_visible=(NotVisible.of(str(namespace), error),))


def _inspect_here(namespace: Namespace, is_walked: bool) -> NamespaceReport:
    inspection = Inspection()
    ephemeral = inspection.read("the ephemeral port range", read_ephemeral_range)
    reserved = inspection.read("the reserved ports", read_reserved_ports)
    usage = usage_here()
    if usage is not None and usage.is_empty:
        return NamespaceReport(
            namespace, ephemeral=ephemeral, reserved=reserved, not_visible=tuple(inspection.not_visible)
        )
    listeners = inspection.list_sockets("the listening sockets", lambda diag: diag.listing((TcpState.LISTEN,)))
    found: tuple[TcpSocket, ...] = ()
    if is_walked and not are_listeners_all(len(listeners), usage, usage_here()):
        found = inspection.list_sockets("the self-connected sockets", lambda diag: diag.self_connects(ephemeral))
    ports = {one.endpoints.local.port for one in listeners}
    return NamespaceReport(
        namespace=namespace,
        self_connects=found,
        traffic=inspection.read_traffic(found),
        exposed=tuple(sorted(port for port in ports if _is_exposed(port, ephemeral, reserved))),
        ephemeral=ephemeral,
        reserved=reserved,
        not_visible=tuple(inspection.not_visible),
    )


def _is_exposed(port: int, ephemeral: PortRange | None, reserved: PortSet | None) -> bool:
    return ephemeral is not None and port in ephemeral and (reserved is None or port not in reserved)
