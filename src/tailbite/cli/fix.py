"""``tailbite fix``: the remedies, as exact commands and file diffs, done and taken back when asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tailbite.cli import status
from tailbite.cli.output import Unsupported, emit_json, note
from tailbite.cli.params import PORTS, RANGE
from tailbite.cli.services import SERVICES
from tailbite.cli.show.fix import as_bytes, as_fields, refusals, subject
from tailbite.host.change.apply import apply_changes, revert_last
from tailbite.host.change.forms import Form, FormSettings, write_form
from tailbite.host.change.journal import Journal
from tailbite.host.change.plan import FixRefused, FixRequest, plan_changes
from tailbite.host.change.records import NO_PORTS, Destroy, SettingChange
from tailbite.host.explain.checkup import check_host
from tailbite.host.explain.doctor import ports_to_free
from tailbite.host.explain.risk import ports_at_risk
from tailbite.host.see import namespaces
from tailbite.host.see.scan import scan_snapshots
from tailbite.host.see.snapshot import take_snapshot
from tailbite.host.sysctl.tree import HOST, is_host_namespace, read_tree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailbite.core.ports import PortRange, PortSet
    from tailbite.host.change.apply import Done
    from tailbite.host.change.records import Change
    from tailbite.host.explain.subject import Service

__all__ = ["command"]


@click.command("fix")
@click.option(
    "--reserve",
    type=PORTS,
    metavar="PORTS",
    help="Reserve ports, such as 50051,8125-8130: the kernel never draws them as source ports, and servers may bind "
    "them as before.",
)
@click.option(
    "--range",
    "ephemeral",
    type=RANGE,
    metavar="LOW-HIGH",
    help="Move the ephemeral range, such as 49152-65535, away from your services' ports.",
)
@click.option(
    "--kill",
    type=PORTS,
    metavar="PORTS",
    help="Destroy the self-connects on these ports and the TIME-WAIT they leave (SOCK_DESTROY), so that the server "
    "can bind at once; their owners get ECONNABORTED. Cannot be undone.",
)
@click.option(
    "--ports",
    "services",
    type=SERVICES,
    default=(),
    metavar="FILE|LIST",
    help="Services that should run here, and may be down now, for what the doctor advises.",
)
@click.option(
    "--netns",
    "wanted",
    default="self",
    show_default=True,
    metavar="all|self|PID|NAME",
    help="Which network namespaces. Files concern the next boot of this host, so only `self` changes them.",
)
@click.option("--apply", "do_it", is_flag=True, help="Do it. Without this, nothing is changed.")
@click.option("--undo", is_flag=True, help="Take back what the last --apply did.")
@click.option("--dry-run", is_flag=True, help="Only show; the default, except with --undo.")
@click.option("--no-files", is_flag=True, help="Change the running kernel only, not what the next boot sets.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Edit the sysctl.d files below DIR, say an image's, and keep the undo journal there.",
)
@click.option(
    "--as",
    "form",
    type=click.Choice([form.value for form in Form]),
    help="Print the ports to reserve and the range as a text for that engine, to be rolled out with it; nothing is "
    "changed here.",
)
@click.option("--json", "as_document", is_flag=True, help="Print one JSON document.")
def command(
    reserve: PortSet | None,
    ephemeral: PortRange | None,
    kill: PortSet | None,
    services: tuple[Service, ...],
    wanted: str,
    do_it: bool,
    undo: bool,
    dry_run: bool,
    no_files: bool,
    root: Path | None,
    form: str | None,
    as_document: bool,
) -> int:
    """Show the remedies as exact commands and file diffs; carry them out, or take them back.

    Reserved ports and the range are changed in the running kernel and in /etc/sysctl.d, where the last assignment of
    a setting wins whole: what others reserve there is kept, in whichever file it stands. Every other line stays as it
    is. Doing it twice is doing it once.

    Without --reserve, --range and --kill it does what `tailbite doctor` advises: reserve the ports that are at risk,
    and destroy the self-connects there are.

    Needs root to change the host's settings; to show what would be changed it needs nothing.

    Exit status: 0 done or nothing to do, 1 there is something to do and --apply was not given, 2 wrong usage,
    4 not permitted.
    """
    wishes = {"--reserve": reserve, "--range": ephemeral, "--kill": kill, "--ports": services or None}
    asked = [name for name, value in wishes.items() if value is not None]
    if any(ports is not None and (not ports or 0 in ports) for ports in (reserve, kill)):
        raise click.UsageError("write ports as 50051 or 8125,50051-50060; 0 is none.")
    if form is not None:
        others = {"--kill": kill, "--apply": do_it, "--undo": undo, "--root": root, "--json": as_document}
        _refuse_beside("--as prints a text and changes nothing", others)
        click.echo(_form(Form(form), reserve or NO_PORTS, ephemeral, wanted, services), nl=False)
        return status.FINE
    if do_it and dry_run:
        raise click.UsageError("--apply and --dry-run contradict each other.")
    if undo and (asked or do_it):
        raise click.UsageError(f"--undo takes back the last --apply: it goes without {(asked or ['--apply'])[0]}.")
    journal, below = Journal(root), root or HOST
    if undo:
        return _undo(journal, below, dry=dry_run, as_document=as_document)
    explicit = FixRequest(reserve or NO_PORTS, ephemeral, kill or NO_PORTS)
    changes = _plan(wanted, None if explicit == FixRequest() else explicit, services, None if no_files else below)
    if not do_it:
        _show_plan(changes, as_document=as_document)
        return status.FOUND if changes else status.FINE
    return _apply(changes, journal, below, as_document=as_document)


def _refuse_beside(reason: str, options: Mapping[str, object]) -> None:
    """Refuse the first option that was given although it contradicts another one.

    Raises:
        click.UsageError: there is one.
    """
    for name, value in options.items():
        if value:
            raise click.UsageError(f"{reason}: leave out {name}.")


def _form(
    form: Form, reserved: PortSet, ephemeral: PortRange | None, wanted: str, services: tuple[Service, ...]
) -> str:
    """Write what was asked for, or else what the doctor advises here, for an engine."""
    if not reserved and ephemeral is None:
        for change in _plan(wanted, None, services, None):
            if isinstance(change, SettingChange):
                reserved |= change.added
    try:
        return write_form(form, FormSettings(reserved, ephemeral))
    except ValueError as error:
        raise click.UsageError(f"{error}; the doctor advises none here.") from None


def _plan(wanted: str, explicit: FixRequest | None, services: tuple[Service, ...], root: Path | None) -> list[Change]:
    """Find the changes that are wished; if nothing is, those that the doctor advises."""
    try:
        places, not_visible = namespaces.choose_namespaces(wanted)
    except namespaces.UnknownNamespace as error:
        raise click.BadParameter(str(error), param_hint="--netns") from None
    if explicit is not None:
        shots = [take_snapshot(place) for place in places]
        seen = scan_snapshots(shots)
        wishes = dict.fromkeys(places, explicit)
        not_visible = tuple(
            dict.fromkeys((*not_visible, *seen.not_visible, *(item for shot in shots for item in shot.not_visible)))
        )
    else:
        advice = check_host(places, services, not_visible)
        shots, seen = [subject.seen for subject in advice.subjects], advice.scan
        wishes = dict.fromkeys(places, FixRequest())
        for subject in advice.subjects:
            place = subject.seen.namespace
            wishes[place] = FixRequest(reserve=ports_at_risk(subject), kill=ports_to_free(advice.of(place)))
        not_visible = advice.not_visible
    for item in not_visible:
        note(f"could not see {item}")
    if wanted == "all":  # those that are closed to us have been told; one that was named must be open
        shots = [shot for shot in shots if shot.ephemeral is not None]
    tree = None
    if root is not None and any(place.is_own for place in places):
        if root != HOST or is_host_namespace(namespaces.current_namespace()):
            tree = read_tree(root)
        else:
            note("this is not the host's network namespace, so the files of its next boot are left alone")
    try:
        return plan_changes(shots, seen, wishes, tree)
    except FixRefused as error:
        raise click.UsageError(str(error)) from None


def _show_plan(changes: list[Change], *, as_document: bool) -> None:
    if as_document:
        emit_json("fix", applied=False, changes=[as_fields(change) for change in changes])
        return
    if not changes:
        note("nothing to do: it is as it should be")
        return
    for change in changes:
        click.echo(as_bytes(change))
    note("nothing has been changed; add --apply to do it")


def _apply(changes: list[Change], journal: Journal, root: Path, *, as_document: bool) -> int:
    done: list[Done] = []
    with refusals(done, journal.path):
        for one in apply_changes(changes, journal, root):
            done.append(one)
            if not as_document:
                click.echo(as_bytes(one.change))
                if one.note:
                    note(one.note)
    if as_document:
        emit_json("fix", applied=True, changes=[as_fields(one.change, one.note) for one in done])
    elif not changes:
        note("nothing to do: it is as it should be")
    else:
        if any(isinstance(one, SettingChange) and not one.namespace.is_own for one in changes):
            note(
                "that lasts as long as the namespace does; for a container, say it where the container is started: "
                "docker run --sysctl KEY=VALUE"
            )
        back = "" if all(isinstance(change, Destroy) for change in changes) else "; tailbite fix --undo takes it back"
        note(f"done{back}")
    return status.FINE


def _undo(journal: Journal, root: Path, *, dry: bool, as_document: bool) -> int:
    try:
        entries = journal.entries()
    except (OSError, ValueError) as error:
        raise Unsupported(str(error)) from None
    if not entries:
        note(f"there is nothing to take back ({journal.path} has no entry)")
        if as_document:
            emit_json("fix", applied=False, changes=[])
        return status.FINE
    done: list[Done] = []
    with refusals(done, journal.path):
        for one in revert_last(journal, root, dry=dry):
            done.append(one)
            if one.note:
                note(f"{subject(one.change)}: {one.note}")
            elif not as_document:
                click.echo(as_bytes(one.change))
    if as_document:
        emit_json("fix", applied=not dry, changes=[as_fields(one.change, one.note) for one in done])
    note("nothing has been changed; leave out --dry-run to do it" if dry else "taken back")
    return status.FOUND if dry else status.FINE
