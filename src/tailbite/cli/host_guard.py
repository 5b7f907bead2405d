"""``tailbite host-guard``: a firewall rule that refuses every self-connect of this host, or of a namespace."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tailbite.cli import status
from tailbite.cli.output import Unsupported, console, emit_json, note
from tailbite.errors import FirewallError
from tailbite.guards.host import firewall as host_firewall
from tailbite.guards.host import systemd_units

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.guards.host.bpf_match import IpVersion
    from tailbite.guards.host.firewall import Firewall, FirewallState

__all__ = ["command"]

_NEEDS = (
    "this needs root (CAP_NET_ADMIN), or a network namespace of your own: "
    "unshare -Urn sh -c 'ip link set lo up; tailbite host-guard install; ...'"
)
_variant = click.option(
    "--variant",
    type=click.Choice(["nft", "legacy"]),
    help="Which iptables: iptables-nft or iptables-legacy. Without it, what 'iptables' is on this host.",
)
_dry_run = click.option("--dry-run", is_flag=True, help="Print the exact commands, and run nothing.")
_quiet = click.option("-q", "--quiet", is_flag=True, help="Say nothing when all is well.")


@click.group("host-guard")
def command() -> None:
    """Refuse every self-connect of this host in the kernel, whoever makes it.

    One firewall rule in a chain of its own (iptables, IPv4 and IPv6) answers a SYN on 'lo' whose source is its
    destination with RST: connect() fails with ECONNREFUSED at once. Nothing else is touched, and established
    connections never meet the rule. Needs root, or a network namespace of your own.
    """


@command.command()
@_variant
@_dry_run
@click.option("--systemd", is_flag=True, help="Also keep it: a timer puts it back after a boot or a reload.")
@_quiet
def install(variant: str | None, dry_run: bool, systemd: bool, quiet: bool) -> None:
    """Put the rule in place. Does nothing where it is.

    \b
    Examples:
      tailbite host-guard install --dry-run
      sudo tailbite host-guard install --systemd
    """
    changes = _changes(variant, host_firewall.install_commands, dry_run)
    if dry_run:
        _print([line for _, lines in changes for line in lines])
        if systemd:
            for name, text in systemd_units.units(variant).items():
                click.echo(f"\n# {systemd_units.UNIT_DIRECTORY / name}\n{text}", nl=False)
            click.echo()
            _print(systemd_units.enable_commands())
        return
    for firewall, lines in changes:
        _run(lines)
        if not quiet:
            done = "the rule is in place now" if lines else "the rule was in place already"
            note(f"IPv{firewall.version} ({firewall.variant}): {done}")
    if systemd:
        _keep(variant, quiet)


@command.command()
@_variant
@_dry_run
@_quiet
def remove(variant: str | None, dry_run: bool, quiet: bool) -> None:
    """Take the rule away, and the systemd units."""
    has_units = any((systemd_units.UNIT_DIRECTORY / name).exists() for name in systemd_units.units())
    changes = _changes(variant, host_firewall.remove_commands, dry_run)
    if dry_run:
        if has_units:
            paths = [str(systemd_units.UNIT_DIRECTORY / name) for name in systemd_units.units()]
            _print([*systemd_units.disable_commands(), ("rm", "-f", *paths), ("systemctl", "daemon-reload")])
        _print([line for _, lines in changes for line in lines])
        return
    if has_units:  # first, or the timer puts the rule back
        try:
            _systemctl(systemd_units.disable_commands())
            for path in systemd_units.remove(systemd_units.UNIT_DIRECTORY):
                if not quiet:
                    note(f"removed {path}")
            _systemctl([("systemctl", "daemon-reload")])
        except (OSError, FirewallError) as error:
            raise Unsupported(str(error)) from error
    for firewall, lines in changes:
        _run(lines)
        if not quiet:
            done = "the rule is removed" if lines else "there was no rule"
            note(f"IPv{firewall.version} ({firewall.variant}): {done}")


@command.command("status")
@_variant
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def show_status(variant: str | None, as_json: bool) -> None:
    """Show if the rule is in place, and what it refused.

    The number is that of the SYNs refused since the rule was made: self-connects that did not happen.

    Exit status: 0 in place for every IP version this host has, 1 not.
    """
    states = [state for _, state in _look(variant)]
    keeps = (systemd_units.UNIT_DIRECTORY / systemd_units.TIMER).exists()
    installed = all(state.is_installed for state in states)
    if as_json:
        emit_json("host-guard", is_installed=installed, systemd_timer=keeps, firewalls=[_record(s) for s in states])
    else:
        _table(states)
        note(
            f"a systemd timer keeps it ({systemd_units.TIMER})"
            if keeps
            else "nothing keeps it over a boot or a reload (install --systemd)"
        )
    if not installed:
        click.get_current_context().exit(status.FOUND)


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
    if not state.is_current:
        return "flushed, or another version's; install again"
    if not state.jumps:
        return "nothing leads to it; install again"
    return f"behind a rule that may decide first: {state.ahead}"


def _look(variant: str | None) -> list[tuple[Firewall, FirewallState]]:
    try:
        return [
            (f, host_firewall.read_state(f)) for f in (host_firewall.find_firewall(v, variant) for v in _versions())
        ]
    except FirewallError as error:
        raise Unsupported(_explain(error)) from error


def _versions() -> list[IpVersion]:
    # Without IPv6 in the kernel (ipv6.disable=1) there is neither the file nor anything to guard.
    return [v for v in host_firewall.VERSIONS if v == 4 or Path("/proc/net/if_inet6").exists()]


def _changes(
    variant: str | None,
    commands: Callable[[FirewallState, Firewall], list[tuple[str, ...]]],
    dry_run: bool,
) -> list[tuple[Firewall, list[tuple[str, ...]]]]:
    changes = []
    for version in _versions():
        try:
            firewall = host_firewall.find_firewall(version, variant)
            try:
                state = host_firewall.read_state(firewall)
            except FirewallError as error:
                if not dry_run:
                    raise
                is_there = commands is host_firewall.remove_commands
                what = "a rule that is there" if is_there else "a host without the rule"
                note(f"IPv{version}: the rules cannot be read ({error.said}); these commands are for {what}")
                state = host_firewall.FirewallState(
                    version, firewall.variant, is_there, jumps=(1,) if is_there else ()
                )
            changes.append((firewall, commands(state, firewall)))
        except FirewallError as error:
            raise Unsupported(_explain(error)) from error
    return changes


def _run(commands: list[tuple[str, ...]]) -> None:
    for line in commands:
        try:
            host_firewall.run(line)
        except FirewallError as error:
            raise Unsupported(_explain(error)) from error


def _keep(variant: str | None, quiet: bool) -> None:
    written = []
    try:
        written = systemd_units.write(systemd_units.units(variant), systemd_units.UNIT_DIRECTORY)
        for line in systemd_units.enable_commands():
            systemd_units.run(line)
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
            systemd_units.run(line)
        except FirewallError:
            if systemd_units.is_running():
                raise  # else no timer can put the rule back


def _print(commands: list[tuple[str, ...]]) -> None:
    for line in commands:
        # nf_tables has no lock.
        is_legacy = Path(line[0]).resolve().name.startswith("xtables-legacy")
        before = [f"{name}={value}" for name, value in host_firewall.environment().items()] if is_legacy else []
        click.echo(shlex.join([*before, *line]))
    if not commands:
        note("nothing to do")


def _explain(error: FirewallError) -> str:
    said = error.said.lower()
    if "permission denied" in said or "not permitted" in said or "lock file" in said:
        return f"{error}\n{_NEEDS}"
    if "couldn't load match" in said or "no such file" in said or "extension bpf" in said:
        return f"{error}\nthe kernel or iptables has no 'bpf' match here (xt_bpf, CONFIG_NETFILTER_XT_MATCH_BPF)"
    return str(error)
