"""``tailbite audit``: would this client connect to itself?"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tailbite.audit.client import Client, Stdin
from tailbite.audit.judge import meets
from tailbite.audit.language import LANGUAGES
from tailbite.audit.many import audit_many
from tailbite.audit.records import Limits
from tailbite.audit.verdict import Word
from tailbite.cli import status
from tailbite.cli.audit_clients import (
    catalogue_clients,
    check_catalogue,
    command_clients,
    list_catalogue,
    split_words,
    unpacked_image,
)
from tailbite.cli.audit_reports import print_result, write_reports
from tailbite.cli.output import Unsupported, console, note
from tailbite.cli.params import DURATION, Count
from tailbite.errors import NamespaceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tailbite.audit.records import Observation
    from tailbite.audit.run import Evidence
    from tailbite.audit.verdict import Verdict

__all__ = ["command"]

_FORMATS = ("table", "json", "github")


def _pattern(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    try:
        pattern = None if value is None else re.compile(value)
    except re.error as error:
        raise click.BadParameter(f"{value!r} is not a valid regular expression: {error}") from None
    if pattern is not None and all(map(pattern.search, ("", "\0"))):
        raise click.BadParameter(f"{value!r} matches every output: give text that tells outputs apart")
    return value


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("program", nargs=-1, metavar="[-- COMMAND...]")
@click.option(
    "--command",
    "commands",
    multiple=True,
    metavar="CMD",
    help="Audit this command as well; repeat it for several in one run. It is split into words as a shell does.",
)
@click.option("--name", "names", multiple=True, help="The client's name in reports; repeat it for each command.")
@click.option(
    "--image",
    metavar="IMAGE",
    help="Run the commands in this container image, with podman or docker, in the trap's network.",
)
@click.option(
    "--catalogue",
    "wanted",
    multiple=True,
    metavar="NAME|FILE",
    help="Audit clients of the catalogue: a group, a client, 'all', or a TOML file or folder of your own.",
)
@click.option("--list", "listing", is_flag=True, help="List the catalogue, and what of it is installed here.")
@click.option(
    "--check-catalogue",
    "checking",
    is_flag=True,
    help="Check the entries of --catalogue (default: all): do their drivers behave like the programs they stand for?",
)
@click.option("--cure", type=click.Choice(LANGUAGES), help="Print how to cure a client in this language.")
@click.option(
    "--quick", is_flag=True, help="Only what the verdict needs, on 127.0.0.1: a few seconds after the first dial."
)
@click.option(
    "--watch",
    type=DURATION,
    metavar="DURATION",
    help=f"Watch for at least this long after the first dial (default {Limits().watch:g}s; "
    f"{Limits.of_quick().watch:g}s with --quick).",
)
@click.option("--recovery", is_flag=True, help="Measure how long a server is kept down, and when the client is back.")
@click.option(
    "--server", metavar="CMD", help="Start this real server for --recovery; {host} and {port} are filled in."
)
@click.option(
    "--patience",
    type=DURATION,
    metavar="DURATION",
    help="How long a client that is still running is given to come back, and --recovery waits "
    f"(default {Limits().patience:g}s; {Limits.of_quick().patience:g}s with --quick).",
)
@click.option(
    "--timeout",
    type=DURATION,
    metavar="DURATION",
    help=f"A client that has not dialled after this time is not going to (default {Limits().dial:g}s; "
    f"{Limits.of_quick().dial:g}s with --quick).",
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
@click.option("--jobs", type=Count(1, 64), default=None, help="Audits at a time (default: one per core).")
@click.option(
    "-o",
    "--output",
    type=click.Choice(_FORMATS),
    help="The output: a table (default), JSON (schema tailbite.audit/2), or annotations for GitHub Actions and a "
    "job summary.",
)
@click.option("-j", "--json", "as_json", is_flag=True, help="The same as -o json.")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write a JUnit report.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write one self-contained page.")
@click.option(
    "--evidence",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep packets (pcap), observations, output and sysctls in this folder.",
)
def command(**options: Any) -> int:
    """Run a client where it must connect to itself, and judge what it does.

    The client runs in a private network namespace, without root, in which a plain client is certain to connect to
    itself; it is watched from the kernel's side. {host} and {port} in COMMAND are filled in:

    \b
      tailbite audit -- redis-cli -h {host} -p {port} ping
      tailbite audit --recovery -- ./my-client --server {host}:{port}
      tailbite audit --catalogue postgres --html postgres.html

    Verdicts, from good to bad: immune; aborts (a server is kept down for less than 1.5 s); blocks (for up to a
    minute, mostly by a TIME-WAIT); holds (for longer, mostly as long as the client runs). None at all: unexercised
    (never dialled the port), inconclusive (too little was seen), unsupported. A client that is still running is
    immune, or aborts, only if it came back.

    Ctrl-C ends it; what is known by then is shown and written, marked as a part.

    Exit status: 0 all are immune (or as --require says), 1 one is not, 3 no verdict, 4 not possible here, 130
    interrupted.
    """
    request = _Request(**options)
    if (request.cure or request.listing or request.checking) and (request.program or request.commands):
        raise click.UsageError("--cure, --list and --check-catalogue audit nothing: leave out the command")
    if request.cure is not None:
        from tailbite.audit.language import read_cure

        click.echo(read_cure(request.cure))
        return status.FINE
    if request.listing:
        return list_catalogue(request.wanted, request.format)
    if request.checking:
        return check_catalogue(request.wanted, request.format)
    return _judge_clients(request)


@dataclass(frozen=True, slots=True)
class _Request:
    """The options, each by the name of its parameter above."""

    program: tuple[str, ...]
    commands: tuple[str, ...]
    names: tuple[str, ...]
    image: str | None
    wanted: tuple[str, ...]
    listing: bool
    checking: bool
    cure: str | None
    quick: bool
    watch: float | None
    recovery: bool
    server: str | None
    patience: float | None
    timeout: float | None
    success: str | None
    failure: str | None
    stdin: str
    require: str | None
    jobs: int | None
    output: str | None
    as_json: bool
    junit: Path | None
    html: Path | None
    evidence: Path | None

    def __post_init__(self) -> None:
        if self.as_json and self.output not in (None, "json"):
            raise click.UsageError(f"--json is -o json; leave it out for -o {self.output}")

    @property
    def format(self) -> str:
        """The output's format: table, json or github."""
        return "json" if self.as_json else self.output or "table"

    @property
    def required(self) -> Word:
        """The worst verdict that passes."""
        return Word(self.require or Word.IMMUNE.value)


def _judge_clients(request: _Request) -> int:
    """Audit the clients, show and write what is known of them, and return the exit status."""
    _check(request)
    limits = _limits(request)
    with _clients(request) as clients:
        verdicts = _audit(clients, limits, request.jobs or os.cpu_count() or 1, request.evidence)
    order = {client.name: position for position, client in enumerate(clients)}
    verdicts.sort(key=lambda verdict: order[verdict.client])
    left_out = tuple(client.name for client in clients if client.name not in {v.client for v in verdicts})
    if verdicts:
        failed = write_reports(verdicts, request.required, left_out, request.junit, request.html)
        print_result(verdicts, request.required, left_out, request.format, recovery=limits.recovery)
        if failed is not None:
            raise click.UsageError(failed)
    if left_out:
        note(f"interrupted: {len(verdicts)} of {len(clients)} clients were audited")
        return status.INTERRUPTED
    return _exit_status(verdicts, request.required, explicit=request.require is not None)


def _check(request: _Request) -> None:
    for file in (request.junit, request.html):
        if file is not None and not file.absolute().parent.is_dir():
            raise click.UsageError(f"cannot write {file}: there is no folder {file.parent}")
    if bool(request.program or request.commands) == bool(request.wanted):
        raise click.UsageError("give either a command after -- (or --command), or --catalogue (or --list)")
    own = {
        "--success": request.success,
        "--failure": request.failure,
        "--name": request.names,
        "--image": request.image,
    }
    for option, value in own.items():
        if value and request.wanted:
            raise click.UsageError(f"{option} is for a command; the entries of the catalogue have their own")


@contextlib.contextmanager
def _clients(request: _Request) -> Iterator[Sequence[Client]]:
    """Give the clients that are asked for, with their image unpacked meanwhile."""
    if request.wanted:
        yield catalogue_clients(request.wanted)
        return
    with unpacked_image(request.image) as inside:
        yield command_clients(
            request.program,
            request.commands,
            request.names,
            image=inside,
            stdin=Stdin(request.stdin),
            success=request.success,
            failure=request.failure,
        )


def _limits(request: _Request) -> Limits:
    recover = request.recovery or request.server is not None
    if request.quick and recover:
        raise click.UsageError("--quick measures no recovery: leave out --recovery and --server")
    base = Limits.of_quick() if request.quick else Limits()
    words = split_words(request.server, "--server") if request.server is not None else None
    given = {"patience": request.patience, "dial": request.timeout, "watch": request.watch}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return replace(base, recovery=recover, server=words, **chosen)


def _audit(clients: Sequence[Client], limits: Limits, jobs: int, evidence: Path | None) -> list[Verdict]:
    """Return the verdicts in the order they came; fewer than clients if the audit was interrupted."""
    write: Callable[[Client, Observation, Evidence], None] | None = None
    if evidence is not None:
        from tailbite.audit.report.evidence import write_evidence

        try:
            evidence.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.UsageError(f"--evidence {evidence}: {error.strerror}") from None

        def write(client: Client, seen: Observation, found: Evidence) -> None:
            write_evidence(evidence, client.name, seen, found)

    verdicts: list[Verdict] = []
    with _ended_by_sigterm(), _progress(clients) as (phase_seen, client_done):
        try:
            with contextlib.closing(
                audit_many(clients, limits, jobs=jobs, keep=write, progress=phase_seen)
            ) as verdicts_coming:
                for verdict in verdicts_coming:
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
    """End the audits on SIGTERM as on Ctrl-C."""

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
    screen = console(stderr=True)
    # Elsewhere than on a terminal rich would write an empty line.
    with Progress(
        *columns, TimeElapsedColumn(), console=screen, transient=True, disable=not screen.is_terminal
    ) as bar:
        task = bar.add_task("starting", total=len(clients))
        yield (
            lambda client, seen: bar.update(task, description=f"{client.name}: {seen.phase.name}"),
            lambda verdict: bar.update(task, advance=1),
        )


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
    return status.PARTLY_VISIBLE
