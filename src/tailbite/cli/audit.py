"""``tailbite audit``: would this client connect to itself?"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tailbite.audit.catalogue import CatalogueError, load
from tailbite.audit.judge import meets
from tailbite.audit.many import audit_many
from tailbite.audit.records import Client, Limits, Stdin
from tailbite.audit.report.data import verdict_as_data
from tailbite.audit.verdict import Remains, Verdict, Word
from tailbite.cli import status
from tailbite.cli.output import Unsupported, console, emit_json, note
from tailbite.errors import NamespaceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tailbite.audit.catalogue import Entry
    from tailbite.audit.records import Observation
    from tailbite.audit.run import Evidence

__all__ = ["command"]

_QUICK = Limits(dial=2.0, watch=0.5, hold=1.1, total=2.4, quick=True)
_PATIENCE = 75.0
"""Seconds: a TIME-WAIT lasts 60, and a server or client that retries every few seconds comes a little later."""

_STYLES = {
    Word.IMMUNE: "green",
    Word.ABORTS: "yellow",
    Word.BLOCKS: "red",
    Word.HOLDS: "bold red",
}


def _pattern(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    try:
        re.compile(value or "")
    except re.error as error:
        raise click.BadParameter(f"{value!r} is no regular expression: {error}") from None
    return value


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("program", nargs=-1, metavar="[-- COMMAND...]")
@click.option(
    "--catalogue",
    "wanted",
    multiple=True,
    metavar="NAME|FILE",
    help="Audit clients of the catalogue: a group, a client, 'all', or a TOML file or folder of your own.",
)
@click.option("--list", "listing", is_flag=True, help="List the catalogue, and what of it is installed here.")
@click.option("--quick", is_flag=True, help="Only what the verdict needs, on 127.0.0.1: at most 3 s a client.")
@click.option("--recovery", is_flag=True, help="Measure how long a server is kept down, and when the client is back.")
@click.option(
    "--server", metavar="CMD", help="Start this real server for --recovery; {host} and {port} are filled in."
)
@click.option(
    "--patience",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help=f"How long --recovery waits (default {_PATIENCE:g}).",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help=f"A client that has not dialled after this time is not going to (default {Limits().dial:g}).",
)
@click.option("--success", callback=_pattern, metavar="REGEX", help="Output that claims a connection.")
@click.option("--failure", callback=_pattern, metavar="REGEX", help="Output that denies one.")
@click.option(
    "--stdin",
    type=click.Choice([kind.value for kind in Stdin]),
    default=Stdin.SILENT.value,
    show_default=True,
    help="The client's standard input: one that never says anything, or one that is at its end.",
)
@click.option(
    "--require",
    type=click.Choice([Word.IMMUNE.value, Word.ABORTS.value]),
    help="Exit with 0 if every client is at least this good, with 1 if not.",
)
@click.option("--jobs", type=click.IntRange(1, 64), default=None, help="Audits at a time (default: one per core).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (schema tailbite.audit/1).")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write a JUnit report.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write one self-contained page.")
@click.option(
    "--evidence",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep packets (pcap), observations, output and sysctls in this folder.",
)
def command(
    program: tuple[str, ...],
    wanted: tuple[str, ...],
    listing: bool,
    quick: bool,
    recovery: bool,
    server: str | None,
    patience: float | None,
    timeout: float | None,
    success: str | None,
    failure: str | None,
    stdin: str,
    require: str | None,
    jobs: int | None,
    as_json: bool,
    junit: Path | None,
    html: Path | None,
    evidence: Path | None,
) -> int:
    """Run a client where it must connect to itself, and tell what it does.

    The client runs in a private network namespace, without root, in which a plain client is certain to connect to
    itself; it is watched from the kernel's side. {host} and {port} in COMMAND are filled in:

    \b
      tailbite audit -- redis-cli -h {host} -p {port} ping
      tailbite audit --recovery -- ./my-client --server {host}:{port}
      tailbite audit --catalogue postgres --html postgres.html

    Verdicts, from good to bad: immune, aborts (resets it within a second), blocks (its TIME-WAIT keeps the server
    down), holds (keeps it). None at all: unexercised (never dialled the port), inconclusive, unsupported.

    Ctrl-C ends it; what is known by then is shown and written, marked as a part.

    Exit status: 0 all are immune (or as --require says), 1 one is not, 3 no verdict, 4 not possible here, 130
    interrupted.
    """
    if listing:
        return _list(_entries(wanted or ("all",)), as_json)
    for file in (junit, html):
        if file is not None and not file.absolute().parent.is_dir():
            raise click.UsageError(f"cannot write {file}: there is no folder {file.parent}")
    clients = _clients(program, wanted, success, failure, stdin)
    limits = _limits(quick, recovery, server, patience, timeout)
    required = Word(require or Word.IMMUNE.value)
    verdicts = _audit(clients, limits, jobs or os.cpu_count() or 1, evidence)
    order = {client.name: position for position, client in enumerate(clients)}
    verdicts.sort(key=lambda verdict: order[verdict.client])
    # Interrupted, what is known is told all the same, as the part that it is.
    left_out = tuple(client.name for client in clients if client.name not in {v.client for v in verdicts})
    if verdicts:
        _write_reports(verdicts, required, left_out, junit, html)
        if as_json:
            told = [verdict_as_data(verdict) for verdict in verdicts]
            emit_json("audit", require=required.value, not_audited=left_out, clients=told)
        else:
            _show(verdicts, recovery=limits.patience is not None)
    if left_out:
        note(f"interrupted: {len(verdicts)} of {len(clients)} clients were audited")
        return status.INTERRUPTED
    return _exit_status(verdicts, required, explicit=require is not None)


def _clients(
    program: tuple[str, ...], wanted: tuple[str, ...], success: str | None, failure: str | None, stdin: str
) -> list[Client]:
    if bool(program) == bool(wanted):
        raise click.UsageError("give either a command after -- or --catalogue (or --list)")
    if program:
        if not any("{port}" in part for part in program):
            raise click.UsageError(
                "the command must contain {port}, where the audit puts the dead port: "
                f"tailbite audit -- {program[0]} {{host}} {{port}}"
            )
        if any("\0" in part for part in program):
            raise click.UsageError("the command contains a NUL character")
        name = Path(program[0]).name
        return [Client(name, program, success=success, failure=failure, stdin=Stdin(stdin))]
    if success or failure:
        raise click.UsageError("--success and --failure are for a command; the catalogue has patterns of its own")
    entries = _entries(wanted)
    with console(stderr=True).status("Looking for installed clients ..."):
        found = [(entry, entry.find()) for entry in entries]
    clients = [client for _, client in found if client is not None]
    missing = [entry.name for entry, client in found if client is None]
    if missing:
        note(f"not installed here: {', '.join(missing)}")
    if not clients:
        raise Unsupported("none of these clients is installed here; tailbite audit --list shows what would be needed")
    return clients


def _entries(wanted: Sequence[str]) -> list[Entry]:
    try:
        return load(wanted)
    except CatalogueError as error:
        raise click.UsageError(str(error)) from None


def _limits(quick: bool, recovery: bool, server: str | None, patience: float | None, timeout: float | None) -> Limits:
    recover = recovery or server is not None or patience is not None
    if quick and recover:
        raise click.UsageError("--quick measures no recovery: leave out --recovery, --server and --patience")
    base = _QUICK if quick else Limits()
    try:
        words = tuple(shlex.split(server)) if server is not None else None
    except ValueError as error:
        raise click.UsageError(f"--server {server!r} cannot be split into words: {error}") from None
    if words is not None and (not words or not any("{port}" in word for word in words)):
        raise click.UsageError("--server must contain {port}, the port it is to listen on")
    dial = timeout or base.dial
    return Limits(
        dial=dial,
        watch=base.watch,
        hold=base.hold,
        total=max(base.total, dial + base.watch + base.hold),
        quick=quick,
        patience=(patience or _PATIENCE) if recover else None,
        server=words,
    )


def _audit(clients: Sequence[Client], limits: Limits, jobs: int, evidence: Path | None) -> list[Verdict]:
    """Return the verdicts in the order they came; fewer than clients if we were interrupted."""
    keep: Callable[[Client, Observation, Evidence], None] | None = None
    if evidence is not None:
        from tailbite.audit.report.evidence import write_evidence

        try:
            evidence.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.UsageError(f"--evidence {evidence}: {error.strerror}") from None

        def keep(client: Client, seen: Observation, found: Evidence) -> None:
            write_evidence(evidence, client.name, seen, found)

    verdicts: list[Verdict] = []
    with _ended_by_sigterm(), _progress(clients) as (phase_seen, client_done):
        try:
            with contextlib.closing(audit_many(clients, limits, jobs=jobs, keep=keep, progress=phase_seen)) as coming:
                for verdict in coming:
                    verdicts.append(verdict)
                    client_done(verdict)
        except KeyboardInterrupt:
            return verdicts
        except NamespaceUnavailable as error:
            raise Unsupported(str(error)) from None
    if len(clients) == 1 and not clients[0].groups:
        (verdict,) = verdicts
        if verdict.verdict is Word.UNSUPPORTED and verdict.reason.startswith("cannot run"):
            raise click.UsageError(verdict.reason)
    return verdicts


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Tidy up on SIGTERM as on Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _progress(
    clients: Sequence[Client],
) -> Iterator[tuple[Callable[[Client, Observation], None], Callable[[Verdict], None]]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns: list[Any] = [SpinnerColumn(), TextColumn("{task.description}")]
    if len(clients) > 1:
        columns += [BarColumn(), MofNCompleteColumn()]
    with Progress(*columns, TimeElapsedColumn(), console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=len(clients))
        yield (
            lambda client, seen: bar.update(task, description=f"{client.name}: {seen.phase.name}"),
            lambda verdict: bar.update(task, advance=1),
        )


def _write_reports(
    verdicts: Sequence[Verdict], required: Word, left_out: Sequence[str], junit: Path | None, html: Path | None
) -> None:
    from tailbite._files import write_atomically
    from tailbite.audit.report.page import page

    if junit is not None:
        from tailbite.audit.report.junit import junit as as_junit

        _write(write_atomically, junit, as_junit(verdicts, required, left_out))
    if html is not None:
        _write(write_atomically, html, page(verdicts, required, left_out))


def _write(write: Callable[[Path, str], None], file: Path, text: str) -> None:
    try:
        write(file, text)
    except OSError as error:
        raise click.UsageError(f"cannot write {file}: {error.strerror}") from None


def _show(verdicts: Sequence[Verdict], *, recovery: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("client", overflow="fold")
    table.add_column("verdict")
    table.add_column("believed")
    table.add_column("times", justify="right")
    table.add_column("held", justify="right")
    table.add_column("left", no_wrap=True)
    if recovery:
        table.add_column("down", justify="right")
        table.add_column("back", justify="right")
    for verdict in verdicts:
        row: list[str | Text] = [
            verdict.client,
            Text(verdict.verdict.value, _STYLES.get(verdict.verdict, "")),
            verdict.believed.value if verdict.self_connects else "-",
            str(verdict.self_connects),
            _held(verdict),
            verdict.left.value if verdict.left else "-",
        ]
        if recovery:
            row += [_down(verdict), _seconds(verdict.recovered_after, "never")]
        table.add_row(*row)
    out = console()
    out.print(table)
    if recovery:
        out.print("\ndown: how long a server could not start, plain / with SO_REUSEADDR; back: the client is on it.")
    if len(verdicts) <= 3:
        for verdict in verdicts:
            out.print(Text(f"\n{verdict.client}: {verdict.reason}."))


def _held(verdict: Verdict) -> str:
    if verdict.longest_hold is None:
        return "-"
    more = ">" if verdict.left is Remains.ESTABLISHED else ""
    hold = verdict.longest_hold
    return f"{more}{hold:.1f} s" if hold >= 1 else f"{more}{hold * 1000:.1f} ms"


def _down(verdict: Verdict) -> str:
    recovery = next((seen.recovery for seen in verdict.observations if seen.recovery), None)
    if recovery is None:
        return "-"
    if recovery.real_server:
        return _seconds(verdict.server_down, f">{recovery.gave_up_after:.0f} s")
    plain, reuse = (
        _seconds(value, f">{recovery.gave_up_after:.0f} s")
        for value in (verdict.server_down_plain, verdict.server_down_reuse)
    )
    return plain if plain == reuse else f"{plain} / {reuse}"


def _seconds(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:.1f} s"


def _exit_status(verdicts: Sequence[Verdict], required: Word, *, explicit: bool) -> int:
    words = [verdict.verdict for verdict in verdicts]
    counted = [word for word in words if word is not Word.UNSUPPORTED]
    if not counted:
        return status.UNSUPPORTED
    if all(meets(word, required) for word in counted):
        return status.FINE
    if explicit or any(
        word in (Word.ABORTS, Word.BLOCKS, Word.HOLDS) and not meets(word, required) for word in counted
    ):
        return status.FOUND
    return status.PARTLY_BLIND


def _list(entries: Sequence[Entry], as_json: bool) -> int:
    with console(stderr=True).status("Looking for installed clients ..."):
        found = [(entry, entry.find()) for entry in entries]
    if as_json:
        emit_json(
            "audit-list",
            clients=[
                {
                    "client": entry.name,
                    "title": entry.title,
                    "groups": list(entry.groups),
                    "installed": client is not None,
                    "version": client.version if client else None,
                    "install": entry.install,
                }
                for entry, client in found
            ],
        )
        return status.FINE
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("client", "groups", "version", "or install"):
        table.add_column(heading, overflow="fold")
    for entry, client in found:
        table.add_row(
            entry.name,
            ", ".join(entry.groups),
            (client.version or "installed") if client else "-",
            Text("" if client else entry.install),
        )
    console().print(table)
    return status.FINE
