"""The table of ``tailbite watch`` that stays on a terminal: at most 80 columns."""

from __future__ import annotations

import errno
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tailbite.cli.output import console, plain
from tailbite.cli.show.watch_text import lost_words, totals_words
from tailbite.core.address import FourTuple
from tailbite.host.see.visit import call_in_namespace
from tailbite.kernel.sock_diag import SockDiag

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import RenderableType

    from tailbite.watch.records import SelfConnectEvent
    from tailbite.watch.watcher import Noticed, Watcher

__all__ = ["WatchTable", "show_live"]

_MOST_ROWS = 20
_CHECK_S = 1.0


def show_live(batches: Iterator[list[Noticed]], watcher: Watcher) -> None:
    """Keep the table up to date until the batches end; the last one stays on the screen."""
    out = console()
    table = WatchTable(watcher, rows=max(min(_MOST_ROWS, out.size.height - 6), 3))
    with Live(table.page(), console=out, auto_refresh=False, screen=False) as live:
        for noticed in batches:
            table.add(noticed)
            live.update(table.page(), refresh=True)


class WatchTable:
    """The newest self-connects, and what has become of them.

    Args:
        watcher: for the totals.
        rows: how many self-connects to show.
    """

    def __init__(self, watcher: Watcher, rows: int = _MOST_ROWS) -> None:
        self._watcher = watcher
        self._newest: deque[Noticed] = deque(maxlen=rows)
        self._states: dict[int, str] = {}
        self._checked = 0.0

    def add(self, noticed: Iterable[Noticed]) -> None:
        """Take in what was noticed; an end that belongs to a row becomes its state."""
        self._newest.extendleft(one for one in noticed if one.is_new or one.event.end)
        if time.monotonic() - self._checked >= _CHECK_S:
            self._checked = time.monotonic()
            self._states = {id(one): _present_state(one.event) for one in self._newest if not one.event.end}

    def page(self) -> RenderableType:
        """Return the table and the totals."""
        state = self._watcher.source.state()
        last = [Text(f"{totals_words(self._watcher)}; source of events: {state.kind.label}; Ctrl-C ends it", "dim")]
        if state.lost:
            last.append(Text(lost_words(state), "yellow"))
        if state.is_paused:
            last.append(Text("destroyed sockets are not listened to: too many sockets close", "yellow"))
        found = self._watcher.last_round
        if found is not None and found.deferred:
            last.append(Text(f"{found.deferred} namespaces wait for their inspection", "dim"))
        last += [Text(f"could not see {plain(str(one))}", "dim") for one in (found.not_visible if found else ())][:3]
        return Group(self._table() if self._newest else Text("No self-connect so far."), *last)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("TIME", no_wrap=True)
        table.add_column("ENDPOINT", overflow="fold", min_width=15)
        table.add_column("NAMESPACE", overflow="ellipsis", no_wrap=True, max_width=16)
        table.add_column("PROCESS", overflow="ellipsis", no_wrap=True, max_width=22)
        table.add_column("NOW", overflow="fold")
        for one in self._newest:
            event = one.event
            who = f"{plain(event.name)} ({event.pid})" if event.pid else "-"
            clock = time.strftime("%H:%M:%S", time.localtime(event.time))
            place = "this" if event.where == "host" else event.namespace.name if event.namespace else "unknown"
            table.add_row(clock, str(event.endpoint), plain(place), who, self._state(one))
        return table

    def _state(self, one: Noticed) -> Text:
        result = one.event.end
        if result is None:
            word = self._states.get(id(one), one.event.moment.label)
            return Text(word, "red" if word in ("ESTABLISHED", "established") else "")
        if result.refused:
            return Text("not destroyed", "red")
        if not result.is_destroyed:
            return Text("ended")
        return Text(f"killed in {result.microseconds / 1000:.1f} ms", "green")


def _present_state(event: SelfConnectEvent) -> str:
    """Return the state of the socket at the endpoints of an event, or "ended"."""
    if event.namespace is None:
        return "unknown"
    try:
        return call_in_namespace(event.namespace, partial(_find_state, event))
    except OSError as error:  # without a process the namespace has ended, and its sockets with it
        return "ended" if error.errno in (errno.ENOENT, errno.ESRCH) else "unknown"


def _find_state(event: SelfConnectEvent) -> str:
    with SockDiag() as diag:
        found = diag.find(event.family, FourTuple(event.endpoint, event.endpoint))
    return found.state.label if found is not None else "ended"
