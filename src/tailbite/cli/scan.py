"""``tailbite scan``: every self-connected TCP socket of this host."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from tailbite.cli import status
from tailbite.cli.output import as_json, emit_json, note, wrapped
from tailbite.cli.params import DURATION, Count, chosen_namespaces, netns_option
from tailbite.host.see.scan import destroy_self_connects, scan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.host.see.scan import Destruction, Scan, Sighting

__all__ = ["command"]

_SHORTEST, _LONGEST = 0.05, 86400.0
_KILL_ACTS = (
    "`scan --kill` without --apply will only show the change from the next release on; add --apply to do it, or "
    "--dry-run to see it now"
)


@click.command("scan")
@netns_option(
    "Which network namespaces: all that are permitted, this one, that of a process, or one by name: a container's "
    "short id, or a name of `ip netns`."
)
@click.option(
    "--watch",
    is_flag=False,
    flag_value=2.0,
    default=None,
    type=DURATION,
    metavar="[DURATION]",
    help="Scan again and again, every 2 s if nothing else is given (5, 500ms, 1m), until Ctrl-C.",
)
@click.option("--count", type=Count(min=1), metavar="N", help="With --watch: stop after N scans.")
@click.option(
    "--kill",
    "wants_kill",
    is_flag=True,
    help="Show how to destroy what is found; with --apply, destroy it (SOCK_DESTROY, needs root there).",
)
@click.option("--apply", "do_it", is_flag=True, help="With --kill: destroy what is found.")
@click.option("--dry-run", is_flag=True, help="With --kill: only show how to destroy it.")
@click.option("-j", "--json", "as_document", is_flag=True, help="Print one JSON document.")
@click.option("--json-lines", "as_lines", is_flag=True, help="Print each scan as one line of JSON.")
def command(
    wanted: str,
    watch: float | None,
    count: int | None,
    wants_kill: bool,
    do_it: bool,
    dry_run: bool,
    as_document: bool,
    as_lines: bool,
) -> int:
    """Find every TCP socket that is connected to itself.

    Lists IPv4 and IPv6 sockets, in every state from SYN-SENT to TIME-WAIT, in this network namespace and, where
    permitted, in every other one on the host: containers have their own. Shows who holds the socket, how many of its
    own bytes came back, and for how long it has been idle.

    Without root, every user's sockets of this namespace are visible, and the namespaces that the user made (`unshare
    -Ur`, rootless containers). Other users' processes and namespaces need root; stderr names what was not visible.

    \b
    Examples:
      tailbite scan
      tailbite scan --watch 5s --json-lines
      sudo tailbite scan --kill --apply

    Exit status: 0 nothing found, or all of it destroyed; 1 something found; 3 nothing found but not everything could
    be seen; 4 destroying it is not permitted.
    """
    _check_options(watch, count, wants_kill, do_it, dry_run, as_document, as_lines)
    kill = wants_kill and not dry_run
    if kill and not do_it:
        note(_KILL_ACTS)
    if watch is None:
        shot = _scan_once(wanted)
        killed = destroy_self_connects(shot.sightings) if kill else ()
        _print_scan(shot, killed, as_document=as_document, as_lines=as_lines)
        if wants_kill and dry_run and not (as_document or as_lines):
            _show_commands(shot)
        return _status(shot, killed if do_it else ())
    seen_any = False
    shots = _scans(wanted, watch, count)
    for shot, killed in _watched(shots, kill=kill, as_lines=as_lines, every=watch):
        seen_any = seen_any or bool(shot.sightings)
        if as_lines:
            _emit_line(shot, killed)
    return status.FOUND if seen_any else _status(shot, ())


def _check_options(
    watch: float | None,
    count: int | None,
    kill: bool,
    do_it: bool,
    dry_run: bool,
    as_document: bool,
    as_lines: bool,
) -> None:
    if as_document and (as_lines or watch is not None):
        raise click.UsageError("--json prints one document: use --json-lines, without --json, to watch.")
    if count is not None and watch is None:
        raise click.UsageError("--count says how many times to scan: it needs --watch.")
    if watch is not None and not _SHORTEST <= watch <= _LONGEST:
        raise click.BadParameter("write a time from 50ms to 1d, such as 2s.", param_hint="--watch")
    if (do_it or dry_run) and not kill:
        raise click.UsageError(f"{'--apply' if do_it else '--dry-run'} needs --kill.")
    if do_it and dry_run:
        raise click.UsageError("--apply and --dry-run contradict each other.")


def _show_commands(shot: Scan) -> None:
    from tailbite.host.change.records import Destroy

    for one in shot.sightings:
        click.echo(Destroy(one).command())
    if shot.sightings:
        note("nothing has been destroyed; add --apply instead of --dry-run to do it")


def _scan_once(wanted: str) -> Scan:
    places, not_visible = chosen_namespaces(wanted)
    found = scan(places, not_visible)
    if wanted == "all":  # a process or a container that ended meanwhile is not reported
        return replace(found, not_visible=tuple(item for item in found.not_visible if not item.is_gone))
    return found


def _scans(wanted: str, every: float, count: int | None) -> Iterator[Scan]:
    number = 0
    while True:
        yield _scan_once(wanted)
        number += 1
        if number == count:
            return
        time.sleep(every)


def _watched(
    shots: Iterator[Scan], *, kill: bool, as_lines: bool, every: float
) -> Iterator[tuple[Scan, tuple[Destruction, ...]]]:
    """Pass each scan on; on a terminal, show it in the place of the one before."""
    if as_lines:
        for shot in shots:
            yield shot, destroy_self_connects(shot.sightings) if kill else ()
        return
    from rich.live import Live

    from tailbite.cli.output import console
    from tailbite.cli.show.scan import watch_page

    with Live(console=console(), auto_refresh=False, screen=False) as live:
        for shot in shots:
            killed = destroy_self_connects(shot.sightings) if kill else ()
            live.update(watch_page(shot, killed, every), refresh=True)
            yield shot, killed


def _status(shot: Scan, killed: tuple[Destruction, ...]) -> int:
    if killed:
        return status.UNSUPPORTED if any(one.refused for one in killed) else status.FINE
    if shot.sightings:
        return status.FOUND
    return status.PARTLY_VISIBLE if shot.not_visible else status.FINE


def _print_scan(shot: Scan, killed: tuple[Destruction, ...], *, as_document: bool, as_lines: bool) -> None:
    if as_document:
        emit_json("scan", **_fields(shot, killed))
        return
    if as_lines:
        _emit_line(shot, killed)
        return
    if shot.sightings:
        from tailbite.cli.output import console
        from tailbite.cli.show.scan import scan_tables

        out = console()
        for part in scan_tables(shot, killed):
            out.print(part)
    elif shot.namespaces:  # nothing to draw: rich, which takes half of a scan's time, stays unloaded
        click.echo(wrapped(shot.nothing_found, sys.stdout))
    for not_visible in shot.not_visible:
        note(f"could not see {not_visible}")


def _emit_line(shot: Scan, killed: tuple[Destruction, ...]) -> None:
    from tailbite.core.json_text import to_json

    fields = {key: as_json(value) for key, value in _fields(shot, killed).items()}
    click.echo(to_json({"schema": "tailbite.scan/1", **fields}))


def _fields(shot: Scan, killed: tuple[Destruction, ...]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "taken": shot.taken,
        "namespaces": shot.namespaces,
        "self_connects": [_sighting(one) for one in shot.sightings],
        "not_visible": shot.not_visible,
    }
    if killed:
        fields["killed"] = [
            {
                "endpoint": one.sighting.socket.endpoints.local,
                "refused": one.refused,
                "still_bound": one.still_bound,
                "had_ended": one.had_ended,
            }
            for one in killed
        ]
    return fields


def _sighting(one: Sighting) -> dict[str, Any]:
    found, traffic = one.socket, one.traffic
    return {
        "namespace": one.namespace.inode,
        "endpoint": found.endpoints.local,
        "host": found.endpoints.local.host,
        "port": found.endpoints.local.port,
        "family": "inet" if found.family == 2 else "inet6",
        "state": found.state,
        "bytes_echoed": traffic.bytes_received if traffic else None,
        "idle_ms": traffic.idle_ms if traffic else None,
        "expires_ms": found.expires_ms if not traffic else None,
        "receive_queue": found.receive_queue,
        "send_queue": found.send_queue,
        "uid": found.uid,
        "inode": found.inode,
        "owners": one.owners,
    }
