"""``tailbite wait``: wait until servers are there, then run a command in place of itself."""

from __future__ import annotations

import math
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn, cast

import click

from tailbite.cli import status
from tailbite.cli.output import emit_json, note
from tailbite.errors import NotReadyError
from tailbite.readiness.sync import wait
from tailbite.readiness.target import Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.cli.show.wait import Progress
    from tailbite.readiness.sighting import Sighting
    from tailbite.verify import Verifier

__all__ = ["command"]


class _WithCommand(click.Command):
    """Takes everything after the first ``--`` as a command to run, untouched."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            args, ctx.meta["command"] = args[:at], args[at + 1 :]
            if not ctx.meta["command"]:
                raise click.UsageError("there is no command after --", ctx)
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- CMD...]"]


def _bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> bytes | None:
    r"""Read text with escapes, ``\r \n \t \0 \xNN \\``, as bytes."""
    if value is None:
        return None
    try:
        return value.encode().decode("unicode_escape").encode("latin-1")
    except UnicodeError as error:
        raise click.BadParameter(f"{value!r} has an escape that is no byte: {error}", ctx, param) from None


def _statuses(ctx: click.Context, param: click.Parameter, value: str | None) -> range | None:
    """Read ``204`` or ``200-299``."""
    if value is None:
        return None
    if (found := re.fullmatch(r"([1-5]\d\d)(?:-([1-5]\d\d))?", value)) is None or (found[2] or "999") < found[1]:
        raise click.BadParameter(f"{value!r} is no HTTP status: write it like 204 or 200-299", ctx, param)
    return range(int(found[1]), int(found[2] or found[1]) + 1)


@click.command(
    "wait", cls=_WithCommand, epilog="Exit status: 0 ready (or CMD's own), 1 not ready in time, 2 wrong usage."
)
@click.argument("targets", nargs=-1, metavar="TARGET...")
@click.option("--postgres", is_flag=True, help="PostgreSQL, and it takes logins.")
@click.option("--redis", is_flag=True, help="Redis, and it has loaded its data.")
@click.option("--mysql", is_flag=True, help="MySQL or MariaDB.")
@click.option("--ssh", is_flag=True, help="SSH.")
@click.option("--smtp", is_flag=True, help="SMTP.")
@click.option("--http", metavar="PATH", help="HTTP: GET PATH answers with --status.")
@click.option("--status", callback=_statuses, metavar="N[-N]", help="The status for --http.  [default: 200-399]")
@click.option("--banner", callback=_bytes, metavar="TEXT", help=r"The server speaks first: TEXT. (Escapes: \n \xNN.)")
@click.option("--send", callback=_bytes, metavar="TEXT", help="Send TEXT, and --expect the answer.")
@click.option("--expect", callback=_bytes, metavar="TEXT", help="What the answer to --send begins with.")
@click.option("--tls", is_flag=True, help="TLS; with another protocol: that protocol inside TLS.")
@click.option("--timeout", type=float, default=60, show_default=True, metavar="S", help="Give up then; 0 tries once.")
@click.option("--interval", type=float, default=0.5, show_default=True, metavar="S", help="Between two attempts.")
@click.option("--patience", type=float, default=5, show_default=True, metavar="S", help="For one attempt.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but what failed.")
@click.option("--json", "as_json", is_flag=True, help="Print what was seen as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    targets: Sequence[str],
    timeout: float,
    interval: float,
    patience: float,
    quiet: bool,
    as_json: bool,
    **protocol: Any,
) -> int:
    """Wait until servers are there, then run CMD in place of this.

    TARGET is HOST:PORT, or the path of a Unix socket; the options say what speaks there. Or a URL that says it
    itself: postgres://db redis://cache:6379 mysql:// ssh:// smtp:// http://web:8080/health https:// tls:// tcp://.
    Without a protocol, whoever accepts the connection is the server.

    Unlike "nc -z" and /dev/tcp this cannot be satisfied by a connection to itself, and cannot keep the server from
    starting.

    \b
      tailbite wait db:5432 cache:6379 --timeout 30 -- ./app --port 80
      tailbite wait --postgres db:5432
      tailbite wait postgres://db redis://cache https://web/health -- ./app
    """
    if not targets:
        raise click.UsageError("nothing to wait for: give at least one target, such as db:5432", ctx)
    for name, value in (("--timeout", timeout), ("--interval", interval), ("--patience", patience)):
        if math.isnan(value) or value < 0 or (value == 0 and name != "--timeout"):
            raise click.UsageError(f"{name} must be {'0 or more' if name == '--timeout' else 'more than 0'} seconds")
    try:
        verifier = _verifier(ctx, **protocol)
        wanted = [Wanted.of(target, verifier) for target in targets]
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error), ctx) from error
    if verifier is not None and all("://" in target for target in targets):
        raise click.UsageError("the URLs say their protocol themselves: leave the protocol's option out", ctx)

    signal.signal(signal.SIGTERM, _terminate)  # as process 1 of a container nobody else would heed it
    progress = _progress(quiet, wanted)
    try:
        with progress:
            sightings = wait(
                *wanted,
                timeout=None if math.isinf(timeout) else timeout,
                interval=interval,
                patience=patience,
                on_sighting=progress.saw,
            )
        missing = None
    except NotReadyError as error:
        missing, sightings = error, cast("tuple[Sighting, ...]", error.sightings)
    _tell(sightings, missing, quiet=quiet, as_json=as_json)
    if missing is not None:
        return status.FOUND
    if "command" in ctx.meta:
        _become(ctx.meta["command"])
    return status.FINE


def _verifier(
    ctx: click.Context,
    *,
    http: str | None,
    status: range | None,
    banner: bytes | None,
    send: bytes | None,
    expect: bytes | None,
    tls: bool,
    **plain: bool,
) -> Verifier | None:
    """Make the verifier that the options ask for."""
    from tailbite import verify

    if (send is None) != (expect is None):
        raise click.UsageError("--send and --expect belong together", ctx)
    if status is not None and http is None:
        raise click.UsageError("--status belongs to --http", ctx)
    chosen: list[Verifier] = [getattr(verify, name) for name, wanted in plain.items() if wanted]
    if http is not None:
        chosen.append(verify.http(http) if status is None else verify.http(http, status))
    if banner is not None:
        chosen.append(verify.banner(banner))
    if send is not None and expect is not None:
        chosen.append(verify.send_expect(send, expect))
    if len(chosen) > 1:
        names = " and ".join(f"--{verifier.name}" for verifier in chosen)
        raise click.UsageError(f"{names}: a server speaks one protocol; for different ones write URLs", ctx)
    inside = chosen[0] if chosen else None
    return verify.tls(inside) if tls else inside


def _progress(quiet: bool, wanted: Sequence[Wanted]) -> Progress:
    from tailbite.cli.show import wait

    if quiet:
        return wait.Silence()
    return wait.Live(wanted) if sys.stderr.isatty() else wait.Lines()


def _tell(sightings: Sequence[Sighting], missing: NotReadyError | None, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        emit_json(
            "wait",
            ready=missing is None,
            seconds=max(sighting.seconds for sighting in sightings),
            targets=sightings,
        )
    if missing is None:
        if not quiet:
            slowest = max(sightings, key=lambda sighting: sighting.seconds)
            what = str(slowest.target) if len(sightings) == 1 else f"all {len(sightings)}"
            note(f"{what} ready after {slowest.seconds:.1f} s")
        return
    after = f"after {missing.seconds:g} s" if missing.seconds else "at once"
    note(f"not ready {after}:")
    for sighting in sightings:
        click.echo(f"  {sighting}", err=True)


def _terminate(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def _become(command: list[str]) -> NoReturn:
    """Run ``command`` in place of this process: same process id, so signals and exit status are its own."""
    sys.stdout.flush()
    # What Python ignores, the command would ignore as well (signal(7), execve(2)); handlers are reset anyway.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        note(f"cannot run {command[0]}: {error.strerror}")
        # The statuses of sh(1) and env(1).
        sys.exit(127 if isinstance(error, FileNotFoundError | NotADirectoryError) else 126)
