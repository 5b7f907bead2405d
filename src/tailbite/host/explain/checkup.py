"""Looking at a whole host for the doctor: every visible namespace, the kernel, and the files of the next boot."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.host.explain.boot import boot_findings
from tailbite.host.explain.doctor import examine, examine_kernel
from tailbite.host.explain.subject import Patient
from tailbite.host.see.abilities import abilities, selection
from tailbite.host.see.processes import holders
from tailbite.host.see.scan import scan
from tailbite.host.see.snapshot import take
from tailbite.host.sysctl.tree import HOST, is_the_hosts, read_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tailbite.host.explain.finding import Finding
    from tailbite.host.explain.subject import Service
    from tailbite.host.see.abilities import Ability
    from tailbite.host.see.records import Blind, Namespace
    from tailbite.host.see.scan import Scan

__all__ = ["Checkup", "check_up"]


@dataclass(frozen=True, slots=True)
class Checkup:
    """What the doctor saw and found.

    Attributes:
        taken: when, in seconds since the epoch.
        patients: the namespaces.
        findings: of all of them, namespace by namespace, the worst of each first.
        scan: their self-connected sockets.
        abilities: what the kernel can do.
        blind: what could not be looked at.
    """

    taken: float
    patients: tuple[Patient, ...]
    findings: tuple[Finding, ...]
    scan: Scan
    abilities: tuple[Ability, ...]
    blind: tuple[Blind, ...]

    def of(self, namespace: Namespace) -> list[Finding]:
        """Return the findings of one namespace."""
        return [one for one in self.findings if one.namespace == namespace]


def check_up(
    places: Sequence[Namespace],
    services: Iterable[Service] = (),
    blind: Iterable[Blind] = (),
    *,
    root: Path | None = None,
) -> Checkup:
    """Look at namespaces, and for the caller's own at the kernel and the next boot as well.

    Args:
        places: the namespaces.
        services: what should run in the caller's own namespace, or in the only one there is.
        blind: what could not be seen when the namespaces were looked for.
        root: where the files of the next boot are; None leaves them out.
    """
    taken = time.time()
    unseen = list(blind)
    seen = scan(places)
    unseen += seen.blind
    shots = [take(place) for place in places]
    owners, not_seen = holders(one for shot in shots for one in shot.listeners)
    unseen += [item for shot in shots for item in shot.blind] + list(not_seen)
    patients = []
    findings: list[Finding] = []
    able = abilities()
    for shot in shots:
        if shot.ephemeral is None:
            continue  # it is among the blind
        is_main = shot.namespace.is_own or len(places) == 1
        patient = Patient(
            shot,
            tuple(one for one in seen.sightings if one.namespace == shot.namespace),
            tuple(services) if is_main else (),
            owners,
            selection(),
        )
        patients.append(patient)
        findings += examine(patient)
        if shot.namespace.is_own:
            findings += examine_kernel(patient, able)
            if root is not None and (root != HOST or is_the_hosts(shot.namespace)):
                tree = read_tree(root)
                unseen += tree.blind
                findings += boot_findings(patient, tree)
    return Checkup(taken, tuple(patients), tuple(findings), seen, able, tuple(dict.fromkeys(unseen)))
