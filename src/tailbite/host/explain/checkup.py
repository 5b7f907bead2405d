"""Looking at a whole host for the doctor: every visible namespace, the kernel, and the files of the next boot."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.host.explain.boot import boot_findings
from tailbite.host.explain.doctor import examine_kernel, examine_namespace
from tailbite.host.explain.subject import Subject
from tailbite.host.see.abilities import kernel_abilities, port_selection
from tailbite.host.see.processes import find_holders
from tailbite.host.see.scan import scan_snapshots
from tailbite.host.see.snapshot import take_snapshot
from tailbite.host.sysctl.tree import HOST, is_host_namespace, read_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tailbite.host.explain.finding import Finding
    from tailbite.host.explain.subject import Service
    from tailbite.host.see.abilities import Ability
    from tailbite.host.see.records import Namespace, NotVisible
    from tailbite.host.see.scan import Scan

__all__ = ["Checkup", "check_host"]


@dataclass(frozen=True, slots=True)
class Checkup:
    """What the doctor saw and found.

    Attributes:
        taken: when, in seconds since the epoch.
        subjects: the namespaces.
        findings: of all of them, namespace by namespace, the worst of each first.
        scan: their self-connected sockets.
        abilities: what the kernel can do.
        not_visible: what could not be looked at.
    """

    taken: float
    subjects: tuple[Subject, ...]
    findings: tuple[Finding, ...]
    scan: Scan
    abilities: tuple[Ability, ...]
    not_visible: tuple[NotVisible, ...]

    def of(self, namespace: Namespace) -> list[Finding]:
        """Return the findings of one namespace."""
        return [one for one in self.findings if one.namespace == namespace]


def check_host(
    places: Sequence[Namespace],
    services: Iterable[Service] = (),
    not_visible: Iterable[NotVisible] = (),
    *,
    root: Path | None = None,
) -> Checkup:
    """Look at namespaces, and for the caller's own at the kernel and the next boot as well.

    Args:
        places: the namespaces.
        services: what should run in the caller's own namespace, or in the only one there is.
        not_visible: what could not be seen when the namespaces were looked for.
        root: where the files of the next boot are; None leaves them out.
    """
    taken = time.time()
    unseen = list(not_visible)
    shots = [take_snapshot(place) for place in places]
    seen = scan_snapshots(shots)
    unseen += seen.not_visible
    owners, not_seen = find_holders(one for shot in shots for one in shot.listeners)
    unseen += not_seen
    subjects = []
    findings: list[Finding] = []
    able = kernel_abilities()
    for shot in shots:
        if shot.ephemeral is None:
            continue  # it is among the not_visible
        is_main = shot.namespace.is_own or len(places) == 1
        subject = Subject(
            shot,
            tuple(one for one in seen.sightings if one.namespace == shot.namespace),
            tuple(services) if is_main else (),
            owners,
            port_selection(),
        )
        subjects.append(subject)
        findings += examine_namespace(subject)
        if shot.namespace.is_own:
            findings += examine_kernel(subject, able)
            if root is not None and (root != HOST or is_host_namespace(shot.namespace)):
                tree = read_tree(root)
                unseen += tree.not_visible
                findings += boot_findings(subject, tree)
    return Checkup(taken, tuple(subjects), tuple(findings), seen, able, tuple(dict.fromkeys(unseen)))
