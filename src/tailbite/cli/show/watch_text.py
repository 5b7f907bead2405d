"""The sentences of ``tailbite watch``, for lines and for the table."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tailbite.cli.output import plain
from tailbite.watch.records import Moment, SourceKind

if TYPE_CHECKING:
    from tailbite.watch.records import SourceState
    from tailbite.watch.watcher import Noticed, Watcher

__all__ = ["event_words", "lost_words", "totals_words"]


def event_words(one: Noticed) -> str:
    """Return an event as one line of text."""
    event = one.event
    clock = time.strftime("%H:%M:%S", time.localtime(event.time))
    place = "" if event.where == "host" else f" in {event.namespace or 'an unknown namespace'}"
    who = f" {event.name} (pid {event.pid})" if event.pid else ""
    return plain(f"{clock} {event.endpoint} {event.moment.label}{place}{who}{_end_words(one)}")


def _end_words(one: Noticed) -> str:
    """Return what --kill did, to be appended; "" without it."""
    result = one.event.end
    if result is None:
        return ""
    if result.refused:
        return f": not destroyed: {result.refused}"
    if not result.is_destroyed:
        return ": had ended already"
    held = "" if result.is_port_free else ", but its owner has bound the port itself and keeps it"
    what = "its TIME-WAIT was " if one.event.moment is Moment.ENDED else ""
    return f": {what}destroyed after {result.microseconds / 1000:.1f} ms{held}"


def lost_words(state: SourceState) -> str:
    """Return how many events are known to be lost."""
    if state.kind is SourceKind.BPF:
        return f"{state.lost} self-connects were not reported: they came faster than they could be read"
    return f"events were lost {state.lost} times: they came faster than they could be read"


def totals_words(watcher: Watcher) -> str:
    """Return the totals in one sentence."""
    found = watcher.last_round
    places = f"{len(found.reports)} network namespaces" if found and len(found.reports) != 1 else "this namespace"
    number = watcher.tally.total
    return f"{number} self-connect{'' if number == 1 else 's'} in {places}"
