"""Check of a whole host: every visible namespace, the kernel, and the files of the next boot."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.host.explain.baseline import NOTHING_KNOWN, KnownFindings
from tailbite.host.explain.boot import boot_findings
from tailbite.host.explain.doctor import HOLDS, examine_kernel, examine_namespace
from tailbite.host.explain.limits import within_permissions
from tailbite.host.explain.subject import Subject
from tailbite.host.explain.why import explain_port
from tailbite.host.see.abilities import kernel_abilities, run_options, socket_abilities
from tailbite.host.see.exhaustion import destinations_of
from tailbite.host.see.host_guard import refused_versions
from tailbite.host.see.permissions import permissions_here
from tailbite.host.see.port import connected_ports, inspect_sockets
from tailbite.host.see.port_selection import running_selection
from tailbite.host.see.processes import find_holders
from tailbite.host.see.records import NotVisible
from tailbite.host.see.scan import scan_snapshots
from tailbite.host.see.snapshot import take_snapshot
from tailbite.host.sysctl.tree import HOST, is_host_namespace, read_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from tailbite.host.explain.finding import Finding
    from tailbite.host.explain.subject import Service
    from tailbite.host.see.abilities import Ability
    from tailbite.host.see.port_selection import SelectionEvidence
    from tailbite.host.see.records import Namespace
    from tailbite.host.see.scan import Scan, Sighting
    from tailbite.host.see.snapshot import Snapshot

__all__ = ["Checkup", "check_host"]

_MOST_HELD = 100  # ports with self-connects that are explained one by one
_MOST_BLOCKED = 10  # ports of services that something else holds


@dataclass(frozen=True, slots=True)
class Checkup:
    """The result of a check.

    Attributes:
        taken: when, in seconds since the epoch.
        subjects: the namespaces.
        findings: of all of them, namespace by namespace, the worst of each first.
        scan: their self-connected sockets.
        abilities: what the kernel can do.
        not_visible: what could not be inspected.
        selection: how the kernel chooses source ports, and how that is known.
    """

    taken: float
    subjects: tuple[Subject, ...]
    findings: tuple[Finding, ...]
    scan: Scan
    abilities: tuple[Ability, ...]
    not_visible: tuple[NotVisible, ...]
    selection: SelectionEvidence

    def of(self, namespace: Namespace) -> list[Finding]:
        """Return the findings of one namespace."""
        return [one for one in self.findings if one.namespace == namespace]


def check_host(
    places: Sequence[Namespace],
    services: Iterable[Service] = (),
    not_visible: Iterable[NotVisible] = (),
    *,
    root: Path | None = None,
    accepted: KnownFindings = NOTHING_KNOWN,
) -> Checkup:
    """Inspect namespaces; for the caller's own, inspect the kernel and the next boot as well.

    Args:
        places: the namespaces.
        services: what should run in the caller's own namespace, or in the only one there is.
        not_visible: what could not be seen when the namespaces were looked for.
        root: where the files of the next boot are; None leaves them out.
        accepted: findings that are not reported.
    """
    taken = time.time()
    unseen = list(not_visible)
    shots = [take_snapshot(place) for place in places]
    seen = scan_snapshots(shots)
    unseen += seen.not_visible
    owners, not_seen = find_holders(one for shot in shots for one in shot.listeners)
    unseen += not_seen
    subjects: list[Subject] = []
    findings: list[Finding] = []
    able = kernel_abilities()
    selection = running_selection()
    sightings: dict[Namespace, list[Sighting]] = {}
    for one in seen.sightings:
        sightings.setdefault(one.namespace, []).append(one)
    visible = [one for one in shots if one.ephemeral is not None]  # the others are among the not_visible
    expected = {one.namespace: tuple(services) for one in visible if one.namespace.is_own or len(places) == 1}
    held = _held_ports(visible, expected, unseen)
    for shot in visible:
        subject = Subject(
            shot,
            tuple(sightings.get(shot.namespace, ())),
            expected.get(shot.namespace, ()),
            owners,
            selection.selection,
            held.get(shot.namespace, ()),
            destinations_of(shot.namespace, shot.ephemeral, shot.reserved, (*shot.listeners, *shot.bound)),
            accepted,
            run_options(),
            refused_versions if shot.namespace.is_own else frozenset,
        )
        subjects.append(subject)
        findings += examine_namespace(subject)
        if shot.namespace.is_own:
            findings += examine_kernel(subject, able)
            findings += _next_boot(subject, root, unseen)
    told = tuple(one for one in findings if not accepted.covers(one))
    told = within_permissions(told, permissions_here())
    return Checkup(taken, tuple(subjects), told, seen, able, tuple(dict.fromkeys(unseen)), selection)


def _next_boot(subject: Subject, root: Path | None, unseen: list[NotVisible]) -> list[Finding]:
    """Return what is wrong with the files of the next boot, if this namespace is the one that they will set."""
    if root is None or (root == HOST and not is_host_namespace(subject.seen.namespace)):
        return []
    tree = read_tree(root)
    unseen += (*tree.not_visible, *tree.not_inspected)
    return boot_findings(subject, tree)


def _held_ports(
    shots: Sequence[Snapshot], services: Mapping[Namespace, Sequence[Service]], unseen: list[NotVisible]
) -> dict[Namespace, tuple[Finding, ...]]:
    """Explain the ports that self-connects hold, and those of services that are down, in the words of ``why``."""
    places: list[tuple[int, Namespace]] = []
    for shot in shots:
        stuck = sorted({one.endpoints.local.port for one in shot.self_connects})[:_MOST_HELD]
        blocked = _blocked_ports(shot, services.get(shot.namespace, ()), unseen)
        places += [(port, shot.namespace) for port in (*stuck, *blocked)]
    found: dict[Namespace, tuple[Finding, ...]] = {}
    ports = inspect_sockets(places)
    able = socket_abilities(use.socket.state for port in ports for use in port.uses)
    for port in ports:
        explained = explain_port(port, abilities=able).findings
        held = tuple(one for one in explained if one.code in HOLDS and one.severity.is_bad)
        found[port.namespace] = (*found.get(port.namespace, ()), *held)
    return found


def _blocked_ports(shot: Snapshot, services: Sequence[Service], unseen: list[NotVisible]) -> list[int]:
    """Return ports of services that are down and that something else holds."""
    known = {one.endpoints.local.port for one in (*shot.listeners, *shot.self_connects)}
    down = {service.port for service in services} - known
    bound = {one.endpoints.local.port for one in shot.bound} & down
    try:
        connected = connected_ports(shot.namespace, down)
    except OSError as error:
        unseen.append(NotVisible.of("what holds the ports of services", error))
        connected = frozenset()
    return sorted(bound | connected)[:_MOST_BLOCKED]
