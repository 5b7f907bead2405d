"""The subject of the doctor: a namespace, what should run in it, and what the reader has accepted already."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from tailbite.core.ports import PortSet
from tailbite.core.selection import Selection
from tailbite.host.explain.baseline import NOTHING_KNOWN, KnownFindings
from tailbite.host.explain.finding import Remedy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tailbite.host.explain.finding import Finding
    from tailbite.host.see.exhaustion import PortUsage
    from tailbite.host.see.records import Process
    from tailbite.host.see.scan import Sighting
    from tailbite.host.see.snapshot import Snapshot

__all__ = ["Service", "Subject", "exposed_ports", "fix_command", "guard_remedy", "prevention_remedy"]

_FEW = 100  # ports that nobody misses
_LONGEST = 400  # letters of a list that somebody types


@dataclass(frozen=True, slots=True)
class Service:
    """A service that should run here.

    Attributes:
        port: the port it listens on when it is up.
        name: its name for people; empty if none was given.
    """

    port: int
    name: str = ""

    @property
    def title(self) -> str:
        """The service at the beginning of a sentence."""
        return str(self)[0].upper() + str(self)[1:]

    def __str__(self) -> str:
        return f"{self.name} on port {self.port}" if self.name else f"the service on port {self.port}"


@dataclass(frozen=True, slots=True)
class Subject:
    """One namespace and what is known around it.

    Attributes:
        seen: the namespace.
        sightings: its self-connected sockets with their owners.
        services: what should run in it.
        owners: the processes behind the inodes of its listeners, as far as they could be seen.
        selection: how the kernel chooses source ports.
        held: the findings about ports that a self-connect, or what it left, holds, and about ports of services that
            something else holds.
        usage: the source ports in use to each destination; None if they were not counted.
        accepted: findings that are not reported again.
        run: the options with which ``tailbite run`` guards a client here; None if it cannot.
        guarded: returns the IP versions, 4 and 6, whose self-connects the host guard refuses there.
    """

    seen: Snapshot
    sightings: tuple[Sighting, ...] = ()
    services: tuple[Service, ...] = ()
    owners: Mapping[int, tuple[Process, ...]] = field(default_factory=dict)
    selection: Selection = Selection.STRIDES
    held: tuple[Finding, ...] = ()
    usage: PortUsage | None = None
    accepted: KnownFindings = NOTHING_KNOWN
    run: str | None = ""
    guarded: Callable[[], frozenset[int]] = frozenset

    def told(self, code: str, ports: Iterable[int]) -> list[int]:
        """Return the ports of a finding that are not accepted yet, ascending."""
        known = self.accepted.ports(code, self.seen.namespace)
        return sorted(set(ports) - known)


def exposed_ports(seen: Snapshot) -> frozenset[int]:
    """Return the ports that the kernel may choose as source ports: in the range, and not reserved."""
    if seen.ephemeral is None:
        return frozenset()
    return _exposed((seen.ephemeral.low, seen.ephemeral.high), seen.reserved or PortSet())


@lru_cache(maxsize=64)
def _exposed(bounds: tuple[int, int], reserved: PortSet) -> frozenset[int]:
    return frozenset(range(bounds[0], bounds[1] + 1)) - frozenset(reserved)


def prevention_remedy(subject: Subject, ports: PortSet) -> Remedy:
    """Return the remedy that keeps the kernel from choosing ports for a client, and how many source ports it
    leaves."""
    left = len(exposed_ports(subject.seen).difference(ports))
    if not left:
        return Remedy(
            "move these services, or the ephemeral range: reserving all its ports would leave no source port"
        )
    number, them = ("port", "it") if len(ports) == 1 else ("ports", "them")
    text = f"reserve the {number}, so that the kernel does not choose {them}; servers may still bind {them}"
    if len(ports) > _FEW:
        text += f" ({left} source ports are left)"
    if len(str(ports)) > _LONGEST:
        return Remedy(
            f"{text}: `tailbite fix`, with the same --ports", (fix_command(subject, "--ports FILE"),), needs_root=True
        )
    return Remedy(text, (fix_command(subject, f"--reserve {ports}"),), needs_root=True)


def guard_remedy(subject: Subject) -> tuple[Remedy, ...]:
    """Return what helps a client that cannot be changed, if this system allows it."""
    text = "or start the client so that the kernel cannot choose that port"
    if subject.run is None:
        return (Remedy(f"{text}, if it is a Python program", ("tailbite run --in-process -- COMMAND",)),)
    return (Remedy(text, (f"tailbite run{subject.run} -- COMMAND",)),)


def fix_command(subject: Subject, options: str) -> str:
    """Return the ``tailbite fix`` that acts in the subject's namespace."""
    return subject.seen.namespace.tailbite(f"fix {options} --apply")
