"""From hosts to one report: who has it now, which ports are exposed on how many hosts, what to reserve. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tailbite.core.ports import PortSet
from tailbite.fleet.records import Exposure, Group, HostReport, Report, SelfConnectOn, Unread

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Merger"]

_MOST_NAMED = 3


@dataclass(slots=True)
class _Sums:
    hosts: int = 0
    affected: int = 0
    exposed: int = 0
    ports: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Merger:
    """Adds up hosts one by one; it keeps sums, and of each host only its self-connects."""

    unread: list[Unread] = field(default_factory=list)
    _self_connects: list[SelfConnectOn] = field(default_factory=list)
    _hosts_by_port: Counter[int] = field(default_factory=Counter)
    _programs: dict[int, Counter[str]] = field(default_factory=dict)
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
        sums.ports.update(host.exposed)
        sums.ports.update(one.port for one in host.self_connects)
        self._self_connects += host.self_connects
        self._hosts_by_port.update(host.exposed)
        for name, ports in host.programs:
            for port in ports:
                self._programs.setdefault(port, Counter())[name] += 1
        self._incomplete += not host.is_complete
        self._examined += host.was_examined
        oldest, newest = self._times or (host.taken, host.taken)
        self._times = min(oldest, host.taken), max(newest, host.taken)

    def report(self) -> Report:
        """Return the report about the hosts so far."""
        oldest, newest = self._times or (0.0, 0.0)
        groups = sorted(self._groups.items())
        return Report(
            hosts=sum(sums.hosts for _, sums in groups),
            incomplete=self._incomplete,
            examined=self._examined,
            oldest=oldest,
            newest=newest,
            self_connects=tuple(self._self_connects),
            exposures=self._exposures(),
            groups=tuple(Group(name, s.hosts, s.affected, s.exposed, PortSet.of(s.ports)) for name, s in groups),
            unread=tuple(self.unread),
        )

    def _exposures(self) -> tuple[Exposure, ...]:
        """Return the exposed ports, the most frequent first; neighbours in the same situation are one row."""
        rows: list[tuple[list[int], int, tuple[str, ...]]] = []
        for port, hosts in sorted(self._hosts_by_port.items()):
            names = _most_frequent(self._programs.get(port, Counter()))
            if rows and rows[-1][0][-1] == port - 1 and rows[-1][1:] == (hosts, names):
                rows[-1][0].append(port)
            else:
                rows.append(([port], hosts, names))
        rows.sort(key=lambda row: (-row[1], row[0][0]))
        return tuple(Exposure(PortSet.of(ports), hosts, names) for ports, hosts, names in rows)


def _most_frequent(names: Counter[str]) -> tuple[str, ...]:
    ranked: Iterable[tuple[str, int]] = sorted(names.items(), key=lambda item: (-item[1], item[0]))
    return tuple(name for name, _ in ranked)[:_MOST_NAMED]
