"""Whom the doctor examines: a namespace, what should run in it, and the remedies that several findings share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tailbite.core.ports import PortSet
from tailbite.core.selection import Selection
from tailbite.host.explain.finding import Remedy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailbite.host.see.records import Process
    from tailbite.host.see.scan import Sighting
    from tailbite.host.see.snapshot import Snapshot

__all__ = ["Service", "Subject", "drawn_ports", "fix_command", "guard", "prevent"]


@dataclass(frozen=True, slots=True)
class Service:
    """A service that should run here.

    Attributes:
        port: where it listens when it is up.
        name: what people call it; empty if nobody said.
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
        selection: how the kernel draws source ports.
    """

    seen: Snapshot
    sightings: tuple[Sighting, ...] = ()
    services: tuple[Service, ...] = ()
    owners: Mapping[int, tuple[Process, ...]] = field(default_factory=dict)
    selection: Selection = Selection.STRIDES


def drawn_ports(seen: Snapshot) -> PortSet:
    """Return the ports that the kernel may give to a client: in the range, and not reserved."""
    if seen.ephemeral is None:
        return PortSet()
    return PortSet.of([seen.ephemeral]) - (seen.reserved or PortSet())


def prevent(subject: Subject, port: int) -> Remedy:
    """Return what keeps a port from being given to a client."""
    if port not in drawn_ports(subject.seen):
        return Remedy(f"have no client bind port {port} before it connects: this port is not drawn by the kernel")
    return Remedy(
        f"reserve port {port}, so that no client is given it; servers bind it as before",
        (fix_command(subject, f"--reserve {port}"),),
        needs_root=True,
    )


def guard() -> Remedy:
    """Return what helps a client that cannot be changed."""
    return Remedy("start the client so that it cannot connect to itself", ("tailbite run -- COMMAND",))


def fix_command(subject: Subject, wish: str) -> str:
    """Return the ``tailbite fix`` that does what is wished in the subject's namespace."""
    place = subject.seen.namespace
    where = "" if place.is_own else f" --netns {place.pids[0] if place.pids else place.name}"
    return f"tailbite fix {wish}{where} --apply"
