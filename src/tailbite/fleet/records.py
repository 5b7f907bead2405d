"""The records of a report about many hosts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tailbite.core.ports import PortSet

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Exposure", "FleetReport", "HostGroup", "HostReport", "SelfConnectOn", "Unread"]


@dataclass(frozen=True, slots=True)
class Unread:
    """A file that could not be used, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class SelfConnectOn:
    """A self-connected socket, or the TIME-WAIT it left, on one of the hosts.

    Attributes:
        host: the host's name, from the name of its file.
        group: the host's group; "" without groups.
        endpoint: address and port, such as ``127.0.0.1:32246``.
        port: the port.
        state: as ss(8) writes it: ESTABLISHED, TIME-WAIT, ...
        owner: the program that holds it; "" for TIME-WAIT, and where it was not visible.
        unit: its systemd unit or container; "" if it has none.
    """

    host: str
    group: str
    endpoint: str
    port: int
    state: str
    owner: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class HostReport:
    """One host, from its newest documents.

    Attributes:
        name: the host's name.
        group: the host's group; "" without groups.
        taken: seconds since the epoch, of the oldest of its documents.
        self_connects: what is connected to itself there.
        exposed: ports of services that the kernel may give to a client.
        programs: program name -> the exposed ports it listens on.
        is_complete: everything could be inspected.
        was_examined: there is a document of the doctor, so ``exposed`` means something.
    """

    name: str
    group: str
    taken: float
    self_connects: tuple[SelfConnectOn, ...] = ()
    exposed: PortSet = field(default_factory=PortSet)
    programs: tuple[tuple[str, PortSet], ...] = ()
    is_complete: bool = True
    was_examined: bool = False


@dataclass(frozen=True, slots=True)
class Exposure:
    """Neighbouring ports that are exposed on the same number of hosts, with the same programs.

    Attributes:
        ports: the ports.
        hosts: the number of hosts on which each of them is exposed.
        programs: names of programs that listen there, the most frequent first.
    """

    ports: PortSet
    hosts: int
    programs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostGroup:
    """A group of hosts and what to reserve on all of them.

    Attributes:
        name: the group; "" if the hosts are in no groups.
        hosts: its number of hosts.
        affected: the number of hosts with a self-connect now.
        exposed_hosts: the number of hosts with an exposed service.
        reserve: the ports to reserve on every host of the group: one list, so that the hosts stay alike.
    """

    name: str
    hosts: int
    affected: int
    exposed_hosts: int
    reserve: PortSet


@dataclass(frozen=True, slots=True)
class FleetReport:
    """Everything that a report shows."""

    hosts: int
    incomplete: int
    examined: int
    oldest: float
    newest: float
    self_connects: tuple[SelfConnectOn, ...]
    exposures: tuple[Exposure, ...]
    groups: tuple[HostGroup, ...]
    unread: tuple[Unread, ...] = ()
