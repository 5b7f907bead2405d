"""Remedies as changes: from what there is and what is requested to what has to change. Pure; nothing is done here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.core.ports import PortSet
from tailbite.host.change.records import NO_PORTS, Destroy, FileChange, SettingChange
from tailbite.host.sysctl.mistakes import lost_lines, ports_meant
from tailbite.host.sysctl.text import assignments, edits_between, settle_setting, value_at_boot
from tailbite.host.sysctl.value import EPHEMERAL, LOWEST_EPHEMERAL, RESERVED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tailbite.core.ports import PortRange
    from tailbite.host.change.records import Change
    from tailbite.host.see.records import Namespace
    from tailbite.host.see.scan import Scan
    from tailbite.host.see.snapshot import Snapshot
    from tailbite.host.sysctl.text import BootOrder
    from tailbite.host.sysctl.tree import Tree

__all__ = [
    "FixRefused",
    "FixRequest",
    "SettingsUnreadable",
    "plan_boot_changes",
    "plan_changes",
    "plan_running_changes",
    "ports_of_refused_lines",
    "unclear_lines",
]

_NULL = "/dev/null"


class FixRefused(ValueError):  # noqa: N818 - it says what was done, and nothing is broken
    """A request that would do harm, or that is not possible; the message says why."""


class SettingsUnreadable(FixRefused):
    """Settings or files cannot be read, so nothing can be merged with them: not the user's mistake."""


@dataclass(frozen=True, slots=True)
class FixRequest:
    """A request for one namespace.

    Attributes:
        reserve: ports to reserve.
        ephemeral: the range it should have; None leaves it.
        kill: ports whose self-connects must be destroyed.
    """

    reserve: PortSet = NO_PORTS
    ephemeral: PortRange | None = None
    kill: PortSet = NO_PORTS


def plan_changes(
    shots: Iterable[Snapshot], seen: Scan, requests: Mapping[Namespace, FixRequest], tree: Tree | None
) -> list[Change]:
    """Return what has to change: the files first, then the running kernel, and last what cannot be undone.

    Args:
        shots: the namespaces as they are.
        seen: their self-connected sockets.
        requests: what is requested for each of them.
        tree: the files of the next boot; None leaves them out. They concern the caller's own namespace.

    Raises:
        FixRefused: a request would do harm, or is not possible.
    """
    files: list[Change] = []
    settings: list[Change] = []
    for shot in shots:
        request = requests[shot.namespace]
        if not request.reserve and request.ephemeral is None:
            continue
        if tree is not None and shot.namespace.is_own:
            files += plan_boot_changes(tree, request.reserve, request.ephemeral)
        settings += plan_running_changes(shot, request.reserve, request.ephemeral)
    ends = [Destroy(one) for one in seen.sightings if one.socket.endpoints.local.port in requests[one.namespace].kill]
    return [*files, *settings, *ends]


def plan_running_changes(seen: Snapshot, ports: PortSet, wanted: PortRange | None) -> list[SettingChange]:
    """Reserve ports in a running namespace, besides those that are, and give it another ephemeral range.

    Args:
        seen: the namespace as it is.
        ports: what to reserve; may be empty.
        wanted: the range; None leaves it.

    Raises:
        FixRefused: no source port would be left, the kernel would not take the range, or the settings could not be
            read.
    """
    if seen.reserved is None or seen.ephemeral is None:
        raise SettingsUnreadable(
            f"the port settings of {seen.namespace} could not be read; so ports cannot be merged with them"
        )
    if wanted is not None:
        _check_range(wanted, max(1, int(seen.sysctl("ip_unprivileged_port_start") or LOWEST_EPHEMERAL)))
    added = ports - seen.reserved
    together, ephemeral = seen.reserved | ports, wanted or seen.ephemeral
    changes = []
    if added:
        changes.append(SettingChange(seen.namespace, RESERVED.key, str(seen.reserved), str(together), added))
    if ephemeral != seen.ephemeral:
        before, after = EPHEMERAL.spell(seen.ephemeral), EPHEMERAL.spell(ephemeral)
        changes.append(SettingChange(seen.namespace, EPHEMERAL.key, before, after))
    if changes and not PortSet.of([ephemeral]) - together:
        raise FixRefused(
            f"with {together} reserved nothing is left of the ephemeral range {ephemeral} of {seen.namespace}: "
            "no client could connect (EADDRNOTAVAIL)"
        )
    return changes


def plan_boot_changes(tree: Tree, ports: PortSet, wanted: PortRange | None) -> list[FileChange]:
    """Have the next boot reserve ports, besides those that it would, and set the ephemeral range.

    Ports of lines that the kernel refuses are reserved as well (:func:`ports_of_refused_lines`).

    Raises:
        FixRefused: a file that would have to change is masked, or the kernel would not take the range.
        SettingsUnreadable: a file could not be read; what it sets could be lost, or win.
    """
    if tree.not_visible:
        one = tree.not_visible[0]
        raise SettingsUnreadable(f"the files of the next boot cannot be merged without {one.what} ({one.why})")
    after: Sequence[BootOrder] = tree.orders
    there = [value for order in tree.orders if (value := value_at_boot(order, RESERVED)) is not None]
    if ports:
        ports |= ports_of_refused_lines(tree) | tree.kernel_ports
        after = settle_setting(after, RESERVED, lambda values: _union([*values, ports]))
    if wanted is not None:
        _check_range(wanted, LOWEST_EPHEMERAL)
        after = settle_setting(after, EPHEMERAL, lambda _: wanted)
    edits = edits_between(tree.orders, after)
    for path, (before, _) in edits.items():
        if before is None and path in tree.not_files:
            raise FixRefused(f"{path} is not a file, but a directory or a link to nothing; remove it first")
    if _NULL in edits:
        raise FixRefused("60-tailbite.conf is a link to /dev/null, which masks it; remove the link first")
    added = ports - _union(there)
    return [FileChange(path, before, text, added) for path, (before, text) in edits.items()]


def ports_of_refused_lines(tree: Tree) -> PortSet:
    """Return the ports that lines were meant to reserve which the kernel refuses, or which set nothing.

    The line that is written for other ports wins over them, so what they were meant to set must be in it: otherwise a
    line that somebody corrects later would have no effect.
    """
    return _union(ports_meant(value) for value in _refused_lines(tree).values())


def unclear_lines(tree: Tree) -> dict[str, str]:
    """Return such lines from which no port can be read: where they stand, and their values."""
    return {where: value for where, value in _refused_lines(tree).items() if value and not ports_meant(value)}


def _refused_lines(tree: Tree) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in (file for order in tree.orders for file in order.files):
        for item in assignments(file, RESERVED.key):
            if item.value is not None and RESERVED.parse(item.value) is None:
                found[f"line {item.line + 1} of {file.path}"] = item.value
        for lost in lost_lines(file):
            if lost.setting is RESERVED:
                found[f"line {lost.line + 1} of {file.path}"] = lost.value
    return found


def _union(sets: Iterable[PortSet]) -> PortSet:
    return PortSet.of(part for ports in sets for part in ports.ranges)


def _check_range(wanted: PortRange, lowest: int) -> None:
    if wanted.low < lowest:
        raise FixRefused(
            f"the kernel takes no ephemeral range below port {lowest} (ip_unprivileged_port_start): {wanted}"
        )
