"""``tailbite fix``: the remedies, as exact commands and file diffs, applied and reverted when asked."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tailbite.cli import status
from tailbite.cli.fix_plan import FixOptions, plan_fix
from tailbite.cli.output import Unsupported, emit_json, note
from tailbite.cli.params import PORTS, RANGE, netns_option
from tailbite.cli.services import SERVICES
from tailbite.cli.show.fix import as_bytes, as_fields, change_name, done_fields, refusals
from tailbite.host.change.apply import apply_changes, revert_last
from tailbite.host.change.forms import Form, FormSettings, write_form
from tailbite.host.change.journal import Journal
from tailbite.host.change.plan import FixRequest
from tailbite.host.change.records import NO_PORTS, Destroy, SettingChange
from tailbite.host.sysctl.tree import HOST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailbite.cli.fix_plan import FixPlan
    from tailbite.core.ports import PortRange, PortSet
    from tailbite.host.change.apply import Done
    from tailbite.host.change.records import Change
    from tailbite.host.explain.subject import Service

__all__ = ["command"]

_UNDO_ACTS = (
    "`fix --undo` without --apply will only show the change from the next release on; add --apply to do it, or "
    "--dry-run to see it now"
)


@click.command("fix")
@click.option(
    "--reserve",
    type=PORTS,
    metavar="PORTS",
    help="Reserve ports, such as 50051,8125-8130: the kernel does not choose them as source ports, and servers may "
    "still bind them.",
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
    help="Destroy the self-connects on these ports and their TIME-WAIT, so that the server can bind at once; their "
    "owners get ECONNABORTED. Cannot be undone.",
)
@click.option(
    "--ports",
    "services",
    type=SERVICES,
    default=(),
    metavar="FILE|LIST",
    help="Services that should run here, and may be down now, for what the doctor advises.",
)
@netns_option(
    "Which network namespaces. Files are for the next boot of this host, so only `self` changes them.",
    default="self",
)
@click.option("--apply", "do_it", is_flag=True, help="Make the changes. Without this, they are only shown.")
@click.option("--undo", is_flag=True, help="Revert what the last --apply did; shown first, done with --apply.")
@click.option("--dry-run", is_flag=True, help="Only show the changes; the default.")
@click.option("--no-files", is_flag=True, help="Change the running kernel only, not what the next boot sets.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Edit the sysctl.d files below DIR, such as an image's, and keep the undo journal there. The running kernel "
    "is left alone.",
)
@click.option(
    "--as",
    "form",
    type=click.Choice([form.value for form in Form]),
    help="Print the ports to reserve and the range as a text for that engine, to be rolled out with it; nothing is "
    "changed here.",
)
@click.option("-j", "--json", "as_document", is_flag=True, help="Print one JSON document.")
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
    """Show the remedies as exact commands and file diffs; apply them with --apply, revert them with --undo.

    Reserved ports and the range are changed in the running kernel and in /etc/sysctl.d, where the last assignment of
    a setting wins whole: what others reserve there is kept, in whichever file it stands. Every other line stays as it
    is. A second --apply changes nothing more.

    Without --reserve, --range and --kill the command does what `tailbite doctor` advises: reserve the ports that are
    at risk, and destroy the self-connects there are.

    Needs root to change the host's settings; to show the changes it needs nothing.

    \b
    Examples:
      tailbite fix
      sudo tailbite fix --reserve 50051,8125-8130 --apply
      sudo tailbite fix --kill 32246 --apply
      sudo tailbite fix --undo --apply

    Exit status: 0 done or nothing to do, 1 there is something to do and --apply was not given, 2 wrong usage,
    3 nothing to do, but not every socket could be seen, 4 not permitted.
    """
    if form is not None:
        others = {"--kill": kill, "--apply": do_it, "--undo": undo, "--root": root, "--json": as_document}
        _refuse_beside("--as prints a text and changes nothing", others)
        click.echo(_form(Form(form), reserve or NO_PORTS, ephemeral, wanted, services), nl=False)
        return status.FINE
    if undo:
        wishes = {"--reserve": reserve, "--range": ephemeral, "--kill": kill, "--ports": services}
        _refuse_beside("--undo reverts the last --apply", wishes)
        return _undo(root, do_it=do_it, dry_run=dry_run, as_document=as_document)
    if root is not None:
        outside = {"--kill": kill, "--no-files": no_files, "--netns": wanted != "self"}
        _refuse_beside("--root changes files only, and not the running kernel", outside)
    request = FixRequest(reserve or NO_PORTS, ephemeral, kill or NO_PORTS)
    return _fix(FixOptions(request, wanted, services, not no_files, root), do_it, dry_run, as_document)


def _fix(options: FixOptions, do_it: bool, dry_run: bool, as_document: bool) -> int:
    _refuse_both(do_it, dry_run)
    plan = plan_fix(options)
    if do_it:
        if not _apply(plan, Journal(options.root), options.root or HOST, as_document=as_document):
            return status.UNSUPPORTED
    else:
        _show_plan(plan, as_document=as_document)
    if plan.changes and not do_it:
        return status.FOUND
    return status.FINE if plan.changes or plan.is_complete else status.PARTLY_VISIBLE


def _refuse_both(do_it: bool, dry_run: bool) -> None:
    if do_it and dry_run:
        raise click.UsageError("--apply and --dry-run contradict each other.")


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
        for change in plan_fix(
            FixOptions(FixRequest(), wanted, services, files=False, says_what_is_left=False)
        ).changes:
            if isinstance(change, SettingChange):
                reserved |= change.added
    try:
        return write_form(form, FormSettings(reserved, ephemeral))
    except ValueError as error:
        raise click.UsageError(f"{error}; the doctor advises none here.") from None


def _note_nothing(plan: FixPlan) -> None:
    if plan.is_complete:
        note("nothing to do: it is as it should be")
    else:
        note("nothing to do for what is visible; a self-connect may be among what is not")


def _show_plan(plan: FixPlan, *, as_document: bool) -> None:
    if as_document:
        emit_json("fix", applied=False, changes=[as_fields(change) for change in plan.changes])
        return
    if not plan.changes:
        _note_nothing(plan)
        return
    for change in plan.changes:
        click.echo(as_bytes(change))
    possible = [change for change in plan.changes if not isinstance(change, Destroy) or change.is_possible]
    if not possible:
        note("nothing has been changed, and --apply could not do it on this kernel")
    else:
        what = "it" if len(possible) == len(plan.changes) else "what this kernel can do"
        note(f"nothing has been changed; add --apply to do {what}")


def _apply(plan: FixPlan, journal: Journal, root: Path, *, as_document: bool) -> bool:
    """Make the changes and print each; return False if a socket could not be destroyed."""
    changes = plan.changes
    done: list[Done] = []
    shown = _Shown()
    with refusals(done, journal.path, changes):
        for one in apply_changes(changes, journal, root):
            done.append(one)
            _print_done(one, shown, as_document=as_document)
    made = [one.change for one in done if not one.refused]
    if as_document:
        emit_json("fix", applied=True, changes=[done_fields(one) for one in done])
    elif not changes:
        _note_nothing(plan)
    elif made:
        if any(isinstance(one, SettingChange) and not one.namespace.is_own for one in made):
            note(
                "that lasts as long as the namespace does; for a container, set it where the container is started: "
                "docker run --sysctl KEY=VALUE"
            )
        back = all(isinstance(change, Destroy) for change in made)
        undo = shlex.join(["tailbite", "fix", "--undo", *([] if root == HOST else ["--root", str(root)]), "--apply"])
        note(f"done{'' if back else f'; {undo} reverts it'}")
    shown.raise_error()
    return len(made) == len(done)


def _print_done(one: Done, shown: _Shown, *, as_document: bool) -> None:
    if one.refused:
        note(f"not destroyed: {change_name(one.change)}: {one.refused}")
    elif not as_document:
        shown.print_change(one.change)
        if one.note:
            note(one.note)


class _Shown:
    """The changes on stdout. A reader that left, or a full disk, is reported when all of the changes are made."""

    def __init__(self) -> None:
        self._error: OSError | None = None

    def print_change(self, change: Change) -> None:
        if self._error is None:
            try:
                click.echo(as_bytes(change))
            except OSError as error:
                self._error = error

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error


def _undo(root: Path | None, *, do_it: bool, dry_run: bool, as_document: bool) -> int:
    _refuse_both(do_it, dry_run)
    journal = Journal(root)
    try:
        entries = journal.entries()
    except (OSError, ValueError) as error:
        why = f"{journal.path} cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise Unsupported(why) from None
    if not entries:
        note(f"there is nothing to revert ({journal.path} has no entry)")
        if as_document:
            emit_json("fix", applied=False, changes=[])
        return status.FINE
    if not (do_it or dry_run):
        note(_UNDO_ACTS)
    done: list[Done] = []
    shown = _Shown()
    with refusals(done, journal.path, ()):
        for one in revert_last(journal, root or HOST, dry=dry_run, files_only=root is not None):
            done.append(one)
            if one.note:
                note(f"{change_name(one.change)}: {one.note}")
            elif not as_document:
                shown.print_change(one.change)
    if as_document:
        emit_json("fix", applied=not dry_run, changes=[as_fields(one.change, one.note) for one in done])
    note("nothing has been changed; write --undo --apply to do it" if dry_run else "reverted")
    shown.raise_error()
    return status.FOUND if dry_run else status.FINE
