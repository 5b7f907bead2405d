"""Planning for ``tailbite fix``: from its options to the changes, and the notes that belong to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from tailbite.cli.output import Unsupported, note
from tailbite.cli.params import chosen_namespaces
from tailbite.core.ports import PortRange, PortSet
from tailbite.host.change.plan import (
    FixRefused,
    FixRequest,
    SettingsUnreadable,
    plan_boot_changes,
    plan_changes,
    ports_of_refused_lines,
    unclear_lines,
)
from tailbite.host.change.records import NO_PORTS, FileChange, SettingChange
from tailbite.host.explain.checkup import check_host
from tailbite.host.explain.doctor import ports_to_free
from tailbite.host.explain.risk import LINUX_DEFAULT, ports_at_risk
from tailbite.host.see import namespaces
from tailbite.host.see.scan import scan_snapshots
from tailbite.host.see.snapshot import take_snapshot
from tailbite.host.sysctl.text import value_at_boot
from tailbite.host.sysctl.tree import HOST, is_host_namespace, read_tree
from tailbite.host.sysctl.value import EPHEMERAL, RESERVED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from tailbite.host.change.records import Change
    from tailbite.host.explain.subject import Service
    from tailbite.host.see.records import Namespace, NotVisible
    from tailbite.host.see.scan import Scan
    from tailbite.host.see.snapshot import Snapshot
    from tailbite.host.sysctl.tree import Tree

__all__ = ["FixOptions", "FixPlan", "plan_fix"]


@dataclass(frozen=True, slots=True)
class FixOptions:
    """The request to ``tailbite fix``.

    Attributes:
        request: ports to reserve, the range, and ports to free; empty for what the doctor advises.
        wanted: ``--netns``.
        services: services that should run here.
        files: True to change what the next boot sets.
        root: the root directory of an image, of which only files are changed; None for this host.
        says_what_is_left: True to note how many source ports the changes leave.
    """

    request: FixRequest
    wanted: str = "self"
    services: tuple[Service, ...] = ()
    files: bool = True
    root: Path | None = None
    says_what_is_left: bool = True


@dataclass(frozen=True, slots=True)
class FixPlan:
    """The changes to make.

    Attributes:
        changes: in the order in which they are made.
        is_complete: False if self-connects must be destroyed and some may not have been visible.
    """

    changes: list[Change]
    is_complete: bool = True


@dataclass(frozen=True, slots=True)
class _Seen:
    """The namespaces as they are, and the request for each."""

    shots: list[Snapshot]
    scan: Scan
    requests: Mapping[Namespace, FixRequest]
    not_visible: tuple[NotVisible, ...]


def plan_fix(options: FixOptions) -> FixPlan:
    """Return the changes that were asked for, or that the doctor advises.

    Raises:
        click.UsageError: they would do harm, or are not possible; the message says why.
        Unsupported: the settings of a namespace cannot be read here.
    """
    try:
        return _plan_host(options) if options.root is None else FixPlan(_plan_image(options, options.root))
    except SettingsUnreadable as error:
        raise Unsupported(str(error)) from None
    except FixRefused as error:
        raise click.UsageError(str(error)) from None


def _plan_image(options: FixOptions, root: Path) -> list[Change]:
    """Plan changes of the files below a root; the running kernel is another system's."""
    tree = read_tree(root)
    ranges = [value for order in tree.orders if (value := value_at_boot(order, EPHEMERAL)) is not None]
    ephemeral = options.request.ephemeral or (ranges[-1] if ranges else LINUX_DEFAULT)
    ports = options.request.reserve | PortSet.of(one.port for one in options.services if one.port in ephemeral)
    if not ports and options.request.ephemeral is None:
        raise click.UsageError("with --root, say what to change: --reserve, --range or --ports.")
    changes = plan_boot_changes(tree, ports, options.request.ephemeral)
    _note_refused_lines(tree, changes)
    return list(changes)


def _plan_host(options: FixOptions) -> FixPlan:
    places, not_visible = chosen_namespaces(options.wanted)
    asked = options.request != FixRequest()
    seen = _as_asked(options, places, not_visible) if asked else _as_advised(options, places, not_visible)
    shots = seen.shots
    if options.wanted == "all":  # those that are closed to us were reported; one that was named must be open
        shots = [shot for shot in shots if shot.ephemeral is not None]
    tree = _host_tree(places) if options.files else None
    changes = plan_changes(shots, seen.scan, seen.requests, tree)  # may refuse them: notes come after
    _note_not_visible(options, seen)
    if tree is not None:
        _note_refused_lines(tree, changes)
    elif options.files and any(place.is_own for place in places):
        note("this is not the host's network namespace, so the files of its next boot are left alone")
    if options.says_what_is_left:
        _note_what_is_left(changes, shots)
    looks_for_self_connects = bool(options.request.kill) or not asked
    missed = any(shot.not_visible for shot in shots) or any(not item.is_gone for item in not_visible)
    return FixPlan(changes, not (looks_for_self_connects and missed))


def _note_not_visible(options: FixOptions, seen: _Seen) -> None:
    for item in seen.not_visible:
        if not (options.wanted == "all" and item.is_gone):
            note(f"could not see {item}")


def _as_asked(options: FixOptions, places: tuple[Namespace, ...], not_visible: tuple[NotVisible, ...]) -> _Seen:
    shots = [take_snapshot(place) for place in places]
    found = scan_snapshots(shots)
    items = (*not_visible, *found.not_visible, *(item for shot in shots for item in shot.not_visible))
    return _Seen(shots, found, dict.fromkeys(places, options.request), tuple(dict.fromkeys(items)))


def _as_advised(options: FixOptions, places: tuple[Namespace, ...], not_visible: tuple[NotVisible, ...]) -> _Seen:
    advice = check_host(places, options.services, not_visible)
    requests = dict.fromkeys(places, FixRequest())
    for subject in advice.subjects:
        place = subject.seen.namespace
        requests[place] = FixRequest(reserve=ports_at_risk(subject), kill=ports_to_free(advice.of(place)))
    return _Seen([subject.seen for subject in advice.subjects], advice.scan, requests, advice.not_visible)


def _host_tree(places: Iterable[Namespace]) -> Tree | None:
    """Return the files of this host's next boot, if they concern one of the namespaces."""
    if not any(place.is_own for place in places):
        return None
    return read_tree(HOST) if is_host_namespace(namespaces.current_namespace()) else None


def _note_refused_lines(tree: Tree, changes: Iterable[Change]) -> None:
    """Say which ports are reserved as well, because a line that the kernel refuses was meant to reserve them."""
    meant = ports_of_refused_lines(tree)
    edits = any(isinstance(change, FileChange) and RESERVED.key in (change.after or "") for change in changes)
    if meant and edits:
        which, them = (f"port {meant} is", "it") if len(meant) == 1 else (f"ports {meant} are", "them")
        note(
            f"{which} reserved at the next boot as well: a line in a file asks for {them} in a form that sets "
            "nothing (tailbite doctor says which line)"
        )
    for where, value in unclear_lines(tree).items() if edits else ():
        note(f"no port can be read from {where} ({value!r}), which has no effect beside the new line: correct it")


def _note_what_is_left(changes: Iterable[Change], shots: Iterable[Snapshot]) -> None:
    """Say how many source ports the changes leave in each namespace."""
    for shot in shots:
        settings = {
            change.key: change.after
            for change in changes
            if isinstance(change, SettingChange) and change.namespace == shot.namespace
        }
        if not settings or shot.ephemeral is None:
            continue
        ephemeral = EPHEMERAL.parse(settings.get(EPHEMERAL.key, "")) or shot.ephemeral
        reserved = PortSet.parse(settings[RESERVED.key]) if RESERVED.key in settings else shot.reserved or NO_PORTS
        before = _available(shot.ephemeral, shot.reserved or NO_PORTS)
        note(f"{_available(ephemeral, reserved)} of {before} source ports remain available in {shot.namespace}")


def _available(ephemeral: PortRange, reserved: PortSet) -> int:
    return len(PortSet.of([ephemeral]) - reserved)
