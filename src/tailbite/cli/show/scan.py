"""The tables of ``tailbite scan``, for eyes: at most 80 columns."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tailbite.cli.output import plain
from tailbite.core.duration import spell_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import RenderableType

    from tailbite.host.see.records import Namespace, Process
    from tailbite.host.see.scan import Destruction, Scan, Sighting

__all__ = ["brief_size", "brief_span", "scan_tables", "watch_page"]

_LONGEST_COMMAND = 240


def scan_tables(shot: Scan, killed: tuple[Destruction, ...] = ()) -> Iterator[RenderableType]:
    """Yield the sockets, then the processes that hold them, then what was done about it."""
    for namespace in shot.namespaces:
        here = [one for one in shot.sightings if one.namespace == namespace]
        if here:
            yield _sockets(namespace, here)
    processes = {process.pid: process for one in shot.sightings for process in one.owners}
    if processes:
        yield _processes(processes.values())
    for one in killed:
        yield _killed(one)


def watch_page(shot: Scan, killed: tuple[Destruction, ...], every: float) -> RenderableType:
    """Return the page of one scan of ``--watch``."""
    clock = time.strftime("%H:%M:%S", time.localtime(shot.taken))
    head = Text(f"tailbite scan, every {spell_duration(every)}, at {clock}; Ctrl-C ends it\n", style="dim")
    body = list(scan_tables(shot, killed)) or [Text(shot.nothing_found)]
    return Group(
        head, *body, *(Text(f"could not see {not_visible}", style="dim") for not_visible in shot.not_visible)
    )


def _table(title: str) -> Table:
    return Table(
        box=None,
        title=Text(title),
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )


def _sockets(namespace: Namespace, sightings: Iterable[Sighting]) -> RenderableType:
    table = _table(f"Connected to itself, in {plain(str(namespace))}")
    table.add_column("ENDPOINT", overflow="fold", min_width=15)
    table.add_column("STATE", no_wrap=True)
    table.add_column("HELD BY", overflow="fold", min_width=10)
    table.add_column("ECHOED", justify="right", no_wrap=True)
    table.add_column("IDLE", justify="right", no_wrap=True)
    table.add_column("IN/OUT-Q", justify="right", no_wrap=True)
    for one in sightings:
        found, traffic = one.socket, one.traffic
        row = (
            str(found.endpoints.local),
            found.state.label,
            plain(_holder(one)),
            brief_size(traffic.bytes_received) if traffic else "",
            brief_span(traffic.idle_ms / 1000) if traffic else f"{found.expires_ms / 1000:.0f}s left",
            f"{brief_size(found.receive_queue)}/{brief_size(found.send_queue)}",
        )
        table.add_row(*map(Text, row))
    return Group(table, Text())


def _holder(one: Sighting) -> str:
    if one.owners:
        return ", ".join(f"{process.name} {process.pid}" for process in one.owners)
    return f"not visible (uid {one.socket.uid})" if one.socket.inode else "no process"


def _processes(processes: Iterable[Process]) -> RenderableType:
    table = _table("Held by")
    table.add_column("PID", justify="right", no_wrap=True)
    table.add_column("USER", overflow="fold")
    table.add_column("STARTED", no_wrap=True)
    table.add_column("COMMAND", overflow="fold")
    for process in processes:
        command = plain(process.command) or f"[{plain(process.name)}]"
        if len(command) > _LONGEST_COMMAND:
            command = f"{command[:_LONGEST_COMMAND]}..."
        table.add_row(*map(Text, (str(process.pid), plain(process.user), _since(process), command)))
    return Group(table, Text())


def _since(process: Process) -> str:
    if process.started is None:
        return ""
    then, now = time.localtime(process.started), time.localtime()
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M", then)


def _killed(one: Destruction) -> Text:
    where = plain(f"{one.sighting.socket.endpoints.local} in {one.sighting.namespace}")
    if one.refused is not None:
        return Text(f"Not destroyed: {where}: {one.refused.why}", style="red")
    if one.had_ended:
        return Text(f"Had ended by itself: {where}.")
    if one.still_bound:
        return Text(f"Destroyed: {where}. Its owner bound the port itself, and keeps it until it closes the socket.")
    owner = "Its owner gets ECONNABORTED" if one.sighting.socket.inode else "No process had it"
    return Text(f"Destroyed: {where}. {owner}, and the port is free.")


def brief_size(count: int | None) -> str:
    """Write a number of bytes for people, with SI units: ``512``, ``127k``, ``1.5M``."""
    if count is None:
        return "?"
    value = float(count)
    for unit in ("", "k", "M", "G"):
        if value < 999.5:
            return f"{count}" if not unit else f"{value:.{0 if value >= 9.95 else 1}f}{unit}"
        value /= 1000
    return f"{value:.0f}T"


def brief_span(seconds: float) -> str:
    """Write a span of time in few letters: ``0s``, ``42s``, ``17m``, ``5h``, ``3d``."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"
