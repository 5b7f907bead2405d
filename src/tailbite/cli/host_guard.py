"""``tailbite host-guard``: a firewall rule that refuses every self-connect of this host, or of a namespace."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tailbite.cli import status
from tailbite.cli.host_guard_refusal import explain_refusal, installing_command
from tailbite.cli.output import Unsupported, console, emit_json, note, reason_of
from tailbite.errors import FirewallError
from tailbite.guards.host import firewall as host_firewall
from tailbite.guards.host import systemd_units

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.guards.host.firewall import Firewall, FirewallState

__all__ = ["command"]

_DORMANT = (
    "IPv{0}: the table {1} is switched off (flags dormant), so no rule in it acts. Switch it on, with all its rules: "
    "nft add table {1}"
)
_OLD_SPELLING = (
    "`host-guard {}` without --apply will only show the change from the next release on; add --apply to do it, or "
    "--dry-run to see it now"
)
_variant = click.option(
    "--variant",
    type=click.Choice(["nft", "legacy"]),
    help="Which iptables: iptables-nft or iptables-legacy. Without it, what 'iptables' is on this host.",
)
_apply = click.option("--apply", "do_it", is_flag=True, help="Do it.")
_dry_run = click.option("--dry-run", is_flag=True, help="Print the exact commands, and run nothing.")
_json = click.option("-j", "--json", "as_document", is_flag=True, help="Print one JSON document of the changes.")
_quiet = click.option("-q", "--quiet", is_flag=True, help="Say nothing when all is well.")

_Change = tuple["Firewall", "FirewallState", list[tuple[str, ...]]]


@click.group("host-guard")
def command() -> None:
    """Refuse every self-connect of this host in the kernel, of any program.

    One firewall rule in a chain of its own (iptables, IPv4 and IPv6) answers a SYN on 'lo' whose source is its
    destination with RST: connect() fails with ECONNREFUSED at once. Nothing else is touched, and established
    connections never meet the rule. Needs root, or a network namespace of your own.

    \b
    Examples:
      tailbite host-guard install --dry-run
      sudo tailbite host-guard install --apply --systemd
      sudo tailbite host-guard status
      sudo tailbite host-guard remove --apply
    """


@command.command("install")
@_variant
@_apply
@_dry_run
@click.option("--systemd", is_flag=True, help="Also keep it: a timer puts it back after a boot or a reload.")
@_quiet
@_json
def install_rule(
    variant: str | None, do_it: bool, dry_run: bool, systemd: bool, quiet: bool, as_document: bool
) -> None:
    """Put the rule in place. Does nothing where it is in place already.

    If a command fails, what the others made is removed again.

    Exit status: 0 done or nothing to do, 1 there is something to do and --dry-run was given, 2 wrong usage, 4 not
    permitted, or this system lacks what the rule needs.

    \b
    Examples:
      tailbite host-guard install --dry-run
      sudo tailbite host-guard install --apply --systemd
    """
    _check(do_it, dry_run, "install")
    changes = _changes(variant, host_firewall.install_commands, dry_run)
    units = list(systemd_units.units(variant)) if systemd else []
    if dry_run and as_document:
        _emit_changes("install", changes, units, applied=False)
        _end_dry_run(any(lines for _, _, lines in changes) or (systemd and _are_units_wanted(variant)))
    if dry_run:
        is_wanted = _show_commands([line for _, _, lines in changes for line in lines])
        _end_dry_run(is_wanted | (systemd and _show_units(variant)))
    _apply_changes(changes)
    for firewall, _, lines in () if quiet or as_document else changes:
        done = "the rule is in place now" if lines else "the rule was in place already"
        note(f"IPv{firewall.version} ({firewall.variant}): {done}")
    if systemd:
        _keep_with_systemd(variant, quiet or as_document)
    if as_document:
        _emit_changes("install", changes, units, applied=True)


def _emit_changes(verb: str, changes: list[_Change], units: list[str], *, applied: bool) -> None:
    emit_json(
        "host-guard.change",
        verb=verb,
        applied=applied,
        firewalls=[
            {
                "ip_version": firewall.version,
                "variant": firewall.variant,
                "commands": [shlex.join(line) for line in lines],
            }
            for firewall, _, lines in changes
        ],
        units=[str(systemd_units.UNIT_DIRECTORY / name) for name in units],
    )


@command.command("remove")
@_variant
@_apply
@_dry_run
@_quiet
@_json
def remove_rule(variant: str | None, do_it: bool, dry_run: bool, quiet: bool, as_document: bool) -> None:
    """Remove the rule, and the systemd units.

    Without --variant it removes the rule of both variants of iptables.

    Exit status: 0 done or nothing to do, 1 there is something to do and --dry-run was given, 2 wrong usage, 4 not
    permitted.

    \b
    Examples:
      tailbite host-guard remove --dry-run
      sudo tailbite host-guard remove --apply
    """
    _check(do_it, dry_run, "remove")
    has_units = any((systemd_units.UNIT_DIRECTORY / name).exists() for name in systemd_units.units())
    changes = _changes(variant, host_firewall.remove_commands, dry_run)
    names = list(systemd_units.units()) if has_units else []
    if dry_run and as_document:
        _emit_changes("remove", changes, names, applied=False)
        _end_dry_run(has_units or any(lines for _, _, lines in changes))
    if dry_run:
        paths = [str(systemd_units.UNIT_DIRECTORY / name) for name in systemd_units.units()]
        units = [*systemd_units.disable_commands(), ("rm", "-f", *paths), ("systemctl", "daemon-reload")]
        _end_dry_run(
            _show_commands([*(units if has_units else []), *(line for _, _, lines in changes for line in lines)])
        )
    if has_units:  # first, or the timer puts the rule back
        _remove_units(quiet or as_document)
    _apply_changes(changes)
    for firewall, before, lines in changes:
        if before.has_chain:
            with contextlib.suppress(FirewallError):  # a table that stays decides nothing
                host_firewall.delete_empty_table(firewall)
        if not quiet and not as_document:
            done = "the rule is removed" if lines else "there was no rule"
            note(f"IPv{firewall.version} ({firewall.variant}): {done}")
    if as_document:
        _emit_changes("remove", changes, names, applied=True)


def _check(do_it: bool, dry_run: bool, verb: str) -> None:
    if do_it and dry_run:
        raise click.UsageError("--apply and --dry-run contradict each other.")
    if not do_it and not dry_run:
        note(_OLD_SPELLING.format(verb))


def _end_dry_run(is_wanted: bool) -> None:
    click.get_current_context().exit(status.FOUND if is_wanted else status.FINE)


def _unit_files(variant: str | None) -> dict[Path, str]:
    return {systemd_units.UNIT_DIRECTORY / name: text for name, text in systemd_units.units(variant).items()}


def _are_units_wanted(variant: str | None) -> bool:
    return any(
        not path.exists() or path.read_text(encoding="utf-8") != text for path, text in _unit_files(variant).items()
    )


def _show_units(variant: str | None) -> bool:
    for path, text in _unit_files(variant).items():
        click.echo(f"\n# {path}\n{text}", nl=False)
    click.echo()
    _show_commands(systemd_units.enable_commands())
    return _are_units_wanted(variant)


def _remove_units(quiet: bool) -> None:
    try:
        _systemctl(systemd_units.disable_commands())
        for path in systemd_units.remove_units(systemd_units.UNIT_DIRECTORY):
            if not quiet:
                note(f"removed {path}")
        _systemctl([("systemctl", "daemon-reload")])
    except (OSError, FirewallError) as error:
        raise Unsupported(reason_of(error)) from error


@command.command("status")
@_variant
@click.option("-j", "--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def show_status(variant: str | None, as_json: bool) -> None:
    """Show if the rule is in place, and how many SYNs it refused.

    The number is that of the SYNs refused since the rule was made: self-connects that did not happen. Without
    --variant, both variants of iptables are read.

    Exit status: 0 in place for every IP version this host has, 1 not, 4 not permitted.

    \b
    Examples:
      sudo tailbite host-guard status
      sudo tailbite host-guard status --json
    """
    states = [state for _, state in _read_states(variant)]
    is_here = any(state.has_chain for state in states)
    keeps = (systemd_units.UNIT_DIRECTORY / systemd_units.TIMER).exists()
    versions = {state.version for state in states}
    installed = versions == {state.version for state in states if state.is_installed}
    if as_json:
        emit_json("host-guard", is_installed=installed, systemd_timer=keeps, firewalls=[_record(s) for s in states])
    else:
        _table(states)
        note(_keeping_in_words(variant, is_here=is_here, installed=installed, keeps=keeps))
    if not installed:
        click.get_current_context().exit(status.FOUND)


def _keeping_in_words(variant: str | None, *, is_here: bool, installed: bool, keeps: bool) -> str:
    if keeps:
        return f"a systemd timer keeps it ({systemd_units.TIMER})"
    if installed:
        return "nothing keeps it over a boot or a reload (install --apply --systemd)"
    if is_here:
        return f"not every self-connect is refused ({installing_command(variant)} puts the rule back)"
    return f"it is not installed ({installing_command(variant)})"


def _record(state: FirewallState) -> dict[str, Any]:
    return {
        "ip_version": state.version,
        "variant": state.variant,
        "is_installed": state.is_installed,
        "is_current": state.is_current,
        "positions": list(state.jumps),
        "ahead": state.ahead,
        "refused_packets": state.packets,
        "refused_bytes": state.bytes,
    }


def _table(states: list[FirewallState]) -> None:
    from rich.table import Table

    table = Table("IP", "iptables", "rule", "refused", box=None, pad_edge=False)
    table.columns[-1].justify = "right"
    for state in states:
        table.add_row(f"v{state.version}", state.variant, _in_words(state), str(state.packets))
    console().print(table)


def _in_words(state: FirewallState) -> str:
    if state.is_installed:
        return "in place"
    if not state.has_chain:
        return "not installed"
    if state.is_dormant:
        return "the table is switched off (flags dormant)"
    if not state.is_current:
        return "flushed, or from another version; install again"
    if not state.jumps:
        return "nothing leads to it; install again"
    return f"behind a rule that may decide first: {state.ahead}"


def _read_states(variant: str | None) -> list[tuple[Firewall, FirewallState]]:
    try:
        firewalls = [
            found
            for version in host_firewall.present_versions()
            for found in host_firewall.find_firewalls(version, variant)
        ]
        return [(firewall, host_firewall.read_state(firewall)) for firewall in firewalls]
    except FirewallError as error:
        raise Unsupported(explain_refusal(error)) from error


def _changes(
    variant: str | None,
    commands: Callable[[FirewallState, Firewall], list[tuple[str, ...]]],
    dry_run: bool,
) -> list[_Change]:
    removes = commands is host_firewall.remove_commands
    try:
        changes = []
        for version in host_firewall.present_versions():
            found = host_firewall.find_firewalls(version, variant) if removes else []
            for firewall in found or [host_firewall.find_firewall(version, variant)]:
                state = _read_or_assume(firewall, removes, dry_run)
                if state.is_dormant and not removes:
                    raise Unsupported(_DORMANT.format(firewall.version, " ".join(firewall.table)))
                changes.append((firewall, state, commands(state, firewall)))
        return changes
    except FirewallError as error:
        raise Unsupported(explain_refusal(error)) from error


def _read_or_assume(firewall: Firewall, removes: bool, dry_run: bool) -> FirewallState:
    try:
        return host_firewall.read_state(firewall)
    except FirewallError as error:
        if not dry_run:
            raise
        what = "a rule that is in place" if removes else "a host without the rule"
        note(f"IPv{firewall.version}: the rules cannot be read ({error.said}); these commands are for {what}")
        jumps = (1,) if removes else ()
        return host_firewall.FirewallState(firewall.version, firewall.variant, removes, jumps=jumps)


def _apply_changes(changes: list[_Change]) -> None:
    try:
        host_firewall.apply_commands(changes)
    except FirewallError as error:
        raise Unsupported(explain_refusal(error)) from error


def _keep_with_systemd(variant: str | None, quiet: bool) -> None:
    written = []
    try:
        written = systemd_units.write_units(systemd_units.units(variant), systemd_units.UNIT_DIRECTORY)
        for line in systemd_units.enable_commands():
            systemd_units.run_systemctl(line)
    except (OSError, FirewallError) as error:
        if not systemd_units.is_running():
            for path in written:
                path.unlink(missing_ok=True)
        raise Unsupported(f"the rule is in place, but systemd does not keep it: {error}") from error
    if not quiet:
        for path in written:
            note(f"wrote {path}")
        note(f"{systemd_units.TIMER} keeps the rule in place")


def _systemctl(commands: list[tuple[str, ...]]) -> None:
    for line in commands:
        try:
            systemd_units.run_systemctl(line)
        except FirewallError:
            if systemd_units.is_running():
                raise  # else no timer can put the rule back


def _show_commands(commands: list[tuple[str, ...]]) -> bool:
    for line in commands:
        # nf_tables has no lock.
        is_legacy = Path(line[0]).resolve().name.startswith("xtables-legacy")
        before = (
            [f"{name}={value}" for name, value in host_firewall.firewall_environment().items()] if is_legacy else []
        )
        click.echo(shlex.join([*before, *line]))
    if not commands:
        note("nothing to do")
    return bool(commands)
