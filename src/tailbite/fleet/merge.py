"""From hosts to one report: who has it now, which ports are exposed on how many hosts, what to reserve. Pure."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

from tailbite.core.ports import PortRange, PortSet
from tailbite.fleet.records import Exposure, FleetReport, HostGroup, HostReport, SelfConnectOn, Unread

__all__ = ["Merger"]

_MOST_NAMED = 3


@dataclass(slots=True)
class _Coverage:
    """The number of hosts that have each port, as the changes of that number from one port to the next.

    A host that exposes 30000-32767 costs two additions, and not 2 768.
    """

    changes: Counter[int] = field(default_factory=Counter)

    def add(self, ports: PortSet) -> None:
        for one in ports.ranges:
            self.changes[one.low] += 1
            self.changes[one.high + 1] -= 1


@dataclass(slots=True)
class _Sums:
    hosts: int = 0
    affected: int = 0
    exposed: int = 0
    ports: PortSet = field(default_factory=PortSet)


@dataclass(slots=True)
class Merger:
    """Adds up hosts one by one; it keeps sums, and of each host only its self-connects."""

    unread: list[Unread] = field(default_factory=list)
    _self_connects: list[SelfConnectOn] = field(default_factory=list)
    _exposed: _Coverage = field(default_factory=_Coverage)
    _programs: dict[str, _Coverage] = field(default_factory=dict)
    _groups: dict[str, _Sums] = field(default_factory=dict)
    _incomplete: int = 0
    _examined: int = 0
    _times: tuple[float, float] | None = None

    def add(self, host: HostReport) -> None:
        """Add one host."""
        sums = self._groups.setdefault(host.group, _Sums())
        sums.hosts += 1
        sums.affected += bool(host.self_connects)
        sums.exposed += bool(host.exposed)
        sums.ports |= host.exposed | PortSet.of(one.port for one in host.self_connects)
        self._self_connects += host.self_connects
        self._exposed.add(host.exposed)
        for name, ports in host.programs:
            self._programs.setdefault(name, _Coverage()).add(ports)
        self._incomplete += not host.is_complete
        self._examined += host.was_examined
        oldest, newest = self._times or (host.taken, host.taken)
        self._times = min(oldest, host.taken), max(newest, host.taken)

    def report(self) -> FleetReport:
        """Return the report about the hosts so far."""
        oldest, newest = self._times or (0.0, 0.0)
        groups = sorted(self._groups.items())
        return FleetReport(
            hosts=sum(sums.hosts for _, sums in groups),
            incomplete=self._incomplete,
            examined=self._examined,
            oldest=oldest,
            newest=newest,
            self_connects=tuple(self._self_connects),
            exposures=self._exposures(),
            groups=tuple(HostGroup(name, s.hosts, s.affected, s.exposed, s.ports) for name, s in groups),
            unread=tuple(self.unread),
        )

    def _exposures(self) -> tuple[Exposure, ...]:
        """Return the exposed ports, the most frequent first; neighbours in the same situation are one row."""
        edges = set(self._exposed.changes).union(*(one.changes for one in self._programs.values()))
        rows: list[tuple[list[PortRange], int, tuple[str, ...]]] = []
        hosts, listening = 0, Counter[str]()
        for low, after in itertools.pairwise(sorted(edges)):
            hosts += self._exposed.changes[low]
            for name, coverage in self._programs.items():
                listening[name] += coverage.changes[low]
            if not hosts:
                continue
            situation = hosts, _most_frequent(listening)
            if rows and rows[-1][0][-1].high == low - 1 and rows[-1][1:] == situation:
                rows[-1][0].append(PortRange(low, after - 1))
            else:
                rows.append(([PortRange(low, after - 1)], *situation))
        rows.sort(key=lambda row: (-row[1], row[0][0].low))
        return tuple(Exposure(PortSet.of(ranges), count, names) for ranges, count, names in rows)


def _most_frequent(names: Counter[str]) -> tuple[str, ...]:
    ranked = sorted((item for item in names.items() if item[1]), key=lambda item: (-item[1], item[0]))
    return tuple(name for name, _ in ranked)[:_MOST_NAMED]
