"""``tailbite watch``: every self-connect of this machine as it happens."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from tailbite.cli import status
from tailbite.cli.output import Unsupported, note
from tailbite.cli.params import DURATION, Count
from tailbite.cli.show.watch_text import event_words, lost_words, totals_words
from tailbite.cli.signals import call_when_ended
from tailbite.watch.document import as_line, event_fields, flat_fields, source_fields
from tailbite.watch.inspector import EVERY_S, Inspector
from tailbite.watch.line_writer import LineWriter
from tailbite.watch.records import SourceKind
from tailbite.watch.sources import open_source
from tailbite.watch.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.watch.event_command import EventCommand
    from tailbite.watch.sources import EventSource
    from tailbite.watch.watcher import Noticed

__all__ = ["command"]

_REFRESH_S: Final = 0.5
_KILL_EVERY_S: Final = 0.2
"""Seconds between inspections with --kill where no event tells of a new self-connect."""
_KILL_BUDGET: Final = 0.1
"""The part of one CPU that such inspections may take in other namespaces."""
_KILL_PRIORITY: Final = -15
_FINISH_S: Final = 5.0


@click.command("watch")
@click.option(
    "-n",
    "--netns",
    "place",
    type=click.Choice(["all", "self"]),
    default="all",
    show_default=True,
    help="Which network namespaces: all that are permitted, or this one.",
)
@click.option(
    "--source",
    "wanted",
    type=click.Choice(["auto", *(kind.value for kind in SourceKind)]),
    default="auto",
    show_default=True,
    help="Where events come from. bpf sees each self-connect of the machine when it is established and needs root, "
    "or CAP_BPF and CAP_PERFMON; destroy sees those of this namespace when they end; poll inspects only. auto takes "
    "the first of them that this system allows.",
)
@click.option(
    "--every",
    type=DURATION,
    default=None,
    metavar="DURATION",
    help=f"Time between inspections, which find what was open before: {EVERY_S:.0f}s, and with --kill without bpf "
    f"{_KILL_EVERY_S}s.",
)
@click.option("--kill", is_flag=True, help="Destroy each self-connect at once (SOCK_DESTROY, needs root there).")
@click.option(
    "--exec",
    "shell",
    metavar="COMMAND",
    help="Run a shell command for each new self-connect: its JSON on stdin, TAILBITE_PORT, TAILBITE_HOST, "
    "TAILBITE_PID, TAILBITE_NAME and the other fields in the environment.",
)
@click.option("-j", "--json-lines", "--json", "as_lines", is_flag=True, help="Print one line of JSON for each event.")
@click.option("--count", type=Count(min=1), metavar="N", help="Stop after N new self-connects.")
@click.option("--for", "duration", type=DURATION, metavar="DURATION", help="Stop after this time.")
def command(
    place: str,
    wanted: str,
    every: float | None,
    kill: bool,
    shell: str | None,
    as_lines: bool,
    count: int | None,
    duration: float | None,
) -> int:
    """Show every self-connect of this machine as it happens, until Ctrl-C.

    With eBPF (root, or CAP_BPF and CAP_PERFMON) nothing is missed: each self-connect of every network namespace is
    reported when it is established, with the process that dialled. Without privilege, self-connects of this
    namespace are reported when their sockets are destroyed. Inspections in between find what was open before. The
    source in use, and why a better one is not available, is printed on stderr.

    With --kill each self-connect is destroyed within milliseconds, so that the server that should have the port can
    start: for hosts where nothing else can be installed. The client gets ECONNABORTED, as from a server that died.

    On a terminal a table stays on the screen; otherwise each event is one line, of text or of JSON. A reader that is
    too slow loses lines, which are counted, and does not stop --kill.

    \b
    Examples:
      sudo tailbite watch
      tailbite watch --json-lines --for 1h
      sudo tailbite watch --kill

    Exit status: 0 nothing happened, 1 a self-connect was seen, 3 nothing was seen but not everything could be, 4 the
    source asked for with --source cannot be used here, 130 interrupted.
    """
    if shell is not None and not shell.strip():
        raise click.UsageError("--exec needs a command.")
    source = _open(wanted, only_own=place == "self")
    watcher = Watcher(source, _inspector(source, every, only_own=place == "self", kill=kill), kill=kill)
    run = _Run(watcher, shell, count, duration)
    if kill:
        _raise_priority()
    try:
        if as_lines or not sys.stdout.isatty():
            _print_lines(run, as_lines=as_lines)
        else:
            from tailbite.cli.show.watch import show_live

            show_live(run.batches(_REFRESH_S), watcher)
    finally:
        run.finish()
        source.close()
    return _status(watcher)


def _open(wanted: str, *, only_own: bool) -> EventSource:
    kind = None if wanted == "auto" else SourceKind(wanted)
    try:
        source = open_source(kind, only_own=only_own)
    except OSError as error:
        raise Unsupported(
            f"--source {wanted} cannot be used here: {error.strerror or error}; use --source auto"
        ) from None
    note(f"source of events: {source.kind.description}")
    for refused in source.state().refused:
        note(f"not available: {refused.what.partition(':')[0]}: {refused.why}")
    return source


def _inspector(source: EventSource, every: float | None, *, only_own: bool, kill: bool) -> Inspector:
    if not kill or source.kind is SourceKind.BPF:
        return Inspector(only_own=only_own, every=every or EVERY_S)
    every = every or _KILL_EVERY_S  # in every namespace: without eBPF, inspections alone find self-connects
    return Inspector(only_own=only_own, every=every, within=every, budget=_KILL_BUDGET)


def _raise_priority() -> None:
    """Run before other programs, where that is permitted: a self-connect ends within milliseconds under load too."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _KILL_PRIORITY)


class _Run:
    """A watch until it has to stop: after N events or a time, at SIGTERM or SIGHUP, or when the output is no longer
    read."""

    def __init__(self, watcher: Watcher, shell: str | None, count: int | None, duration: float | None) -> None:
        self.watcher = watcher
        self.is_stopped = False
        self._count = count
        self._end = None if duration is None else time.monotonic() + duration
        self._signal: int | None = None
        self._commands: EventCommand | None = None
        if shell is not None:
            from tailbite.watch.event_command import EventCommand

            self._commands = EventCommand(shell)
        call_when_ended(self._terminate)

    def _terminate(self, number: int) -> None:
        self._signal = self._signal or number
        self.is_stopped = True

    def batches(self, longest: float) -> Iterator[list[Noticed]]:
        """Yield what was noticed, at the latest after ``longest`` seconds, until it is time to stop."""
        while not self.is_stopped:
            left = longest if self._end is None else min(longest, self._end - time.monotonic())
            noticed = self.watcher.wait(max(left, 0.0))
            self._execute(noticed)
            yield noticed
            if self._count is not None and self.watcher.tally.total >= self._count:
                return
            if self._end is not None and time.monotonic() >= self._end:
                return

    def _execute(self, noticed: list[Noticed]) -> None:
        if self._commands is None:
            return
        self._commands.start_waiting()
        for one in noticed:
            if one.is_new:
                self._commands.submit(flat_fields(one), as_line(event_fields(one)))

    def finish(self) -> None:
        """Let the commands end, say what was lost, and die by the signal that asked for it."""
        if self._commands is not None:
            self._commands.finish(_FINISH_S)
            if self._commands.dropped:
                note(f"--exec: {self._commands.dropped} events came faster than the command could be run")
            if self._commands.failed:
                note(f"--exec: the command failed {self._commands.failed} times")
        if self._signal is not None:
            sys.stdout.flush()
            signal.signal(self._signal, signal.SIG_DFL)
            os.kill(os.getpid(), self._signal)


def _print_lines(run: _Run, *, as_lines: bool) -> None:
    def dropped(number: int) -> str:
        if as_lines:
            return as_line({"event": "dropped", "lines": number})
        return f"{number} lines were dropped: the reader was too slow"

    writer = LineWriter(sys.stdout.fileno(), dropped)
    watcher = run.watcher
    lost = 0
    try:
        if as_lines:
            writer.put_line(as_line({"event": "started", **source_fields(watcher.source.state())}))
        for noticed in run.batches(1.0):
            for one in noticed:
                writer.put_line(as_line(event_fields(one)) if as_lines else event_words(one))
            state = watcher.source.state()
            if state.lost > lost:
                writer.put_line(as_line({"event": "lost", **source_fields(state)}) if as_lines else lost_words(state))
                lost = state.lost
            if writer.is_closed:
                return
        if as_lines:
            writer.put_line(as_line({"event": "stopped", "total": watcher.tally.total, **_last_round(watcher)}))
        else:
            note(totals_words(watcher))
    finally:
        writer.close()
        if writer.error is not None and not isinstance(writer.error, BrokenPipeError):
            raise writer.error


def _last_round(watcher: Watcher) -> dict[str, Any]:
    found = watcher.last_round
    if found is None:
        return {}
    return {
        "namespaces": len(found.reports),
        "not_visible": [{"what": one.what, "why": one.why} for one in found.not_visible],
    }


def _status(watcher: Watcher) -> int:
    if watcher.tally.total:
        return status.FOUND
    found = watcher.last_round
    return status.PARTLY_VISIBLE if found is not None and not found.is_complete else status.FINE
