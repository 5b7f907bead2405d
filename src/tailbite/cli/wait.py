"""``tailbite wait``: wait until servers are ready, or ports are free, then run a command in place of itself."""

from __future__ import annotations

import errno
import math
import re
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

import click

from tailbite.cli import status
from tailbite.cli.output import Unsupported, emit_json, note, plain, print_to_stderr
from tailbite.cli.signals import ENDING, call_when_ended
from tailbite.cli.wait_arguments import (
    TIME,
    check_certificates,
    choose_verifier,
    read_binds,
    read_bytes,
    read_statuses,
)
from tailbite.errors import NotReadyError
from tailbite.readiness.status import Readiness
from tailbite.readiness.target import Wanted, names_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailbite.cli.show.wait import Progress
    from tailbite.cli.wait_arguments import Statuses
    from tailbite.readiness.free import Bind

__all__ = ["command"]


class _WithCommand(click.Command):
    """Takes everything after the first ``--`` as a command to run, unchanged."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            args, ctx.meta["command"] = args[:at], args[at + 1 :]
            if not ctx.meta["command"]:
                raise click.UsageError("there is no command after --", ctx)
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- CMD...]"]


@dataclass(frozen=True, slots=True)
class _Request:
    """The command line, checked."""

    wanted: tuple[Wanted, ...]
    binds: tuple[Bind, ...]
    reuse: bool
    timeout: float
    interval: float
    patience: float

    @property
    def targets(self) -> list[str]:
        """The targets as they are shown."""
        return [*names_of(self.wanted), *map(str, self.binds)]

    def places(self) -> list[dict[str, Any]]:
        """Return the target's address and protocol, for each target."""
        return [*map(_place_to_connect, self.wanted), *map(_place_to_bind, self.binds)]


@click.command(
    "wait",
    cls=_WithCommand,
)
@click.argument("targets", nargs=-1, metavar="TARGET...")
@click.option("--postgres", is_flag=True, help="PostgreSQL, and it takes logins.")
@click.option("--redis", is_flag=True, help="Redis, and it has loaded its data.")
@click.option("--mysql", is_flag=True, help="MySQL or MariaDB.")
@click.option("--ssh", is_flag=True, help="SSH.")
@click.option("--smtp", is_flag=True, help="SMTP.")
@click.option("--http", metavar="PATH", help="HTTP: GET PATH answers with --status.")
@click.option(
    "--status", callback=read_statuses, metavar="N[-N],...", help="The statuses for HTTP.  [default: 200-399]"
)
@click.option(
    "--banner", callback=read_bytes, metavar="TEXT", help=r"The server speaks first: TEXT. (Escapes: \n \xNN.)"
)
@click.option("--send", callback=read_bytes, metavar="TEXT", help="Send TEXT, and --expect the answer.")
@click.option("--expect", callback=read_bytes, metavar="TEXT", help="The beginning of the answer to --send.")
@click.option("--tls", is_flag=True, help="TLS; with another protocol: that protocol inside TLS.")
@click.option("--check-certificate", is_flag=True, help="For TLS: the certificate must be valid, and for that host.")
@click.option("--cacert", metavar="FILE", help="Check it, and trust the CAs in FILE (PEM) instead of the system's.")
@click.option(
    "--free", "binds", multiple=True, callback=read_binds, metavar="[HOST:]PORT", help="A server can bind PORT."
)
@click.option("--reuseaddr", "reuse", is_flag=True, help="For --free: the server sets SO_REUSEADDR.")
@click.option("-t", "--timeout", type=TIME, default="60s", metavar="TIME", help="Give up then; 0: one try.  [60s]")
@click.option("--interval", type=TIME, default="500ms", metavar="TIME", help="Between two attempts.  [500ms]")
@click.option(
    "--attempt-timeout",
    "--patience",
    "patience",
    type=TIME,
    default="5s",
    metavar="TIME",
    help="For one attempt.  [5s]",
)
@click.option("-q", "--quiet", is_flag=True, help="Print only what is not ready at the end.")
@click.option(
    "-j",
    "--json",
    "as_json",
    is_flag=True,
    help="Print the last status of every target as JSON, when interrupted too.",
)
@click.pass_context
def command(ctx: click.Context, /, quiet: bool, as_json: bool, **options: Any) -> int:
    """Wait until servers are ready, then run CMD in place of this.

    TARGET is HOST:PORT, PORT on this host, or the path of a Unix socket; the options name its protocol. Or a URL:
    postgres://db redis://cache:6379 mysql:// ssh:// smtp:// http://web:8080/health https:// tls:// tcp://.
    Without a protocol, a server that accepts the connection and holds it is ready. --free waits until a server
    could bind a port of this host. Times are written 500ms, 10s, 2m or 1m30s; a bare number is in seconds.
    Redirects are not followed, certificates not checked unless --check-certificate is given, proxies not used.

    Unlike "nc -z" and /dev/tcp this cannot be satisfied by a connection to itself, and cannot keep the server from
    starting.

    \b
    Examples:
      tailbite wait db:5432 cache:6379 --timeout 30s -- ./app --port 80
      tailbite wait postgres://db redis://cache https://web/health -- ./app
      tailbite wait --status 200,401 http://web:8080/private
      tailbite wait --free 8080 -- ./server --port 8080

    Exit status: 0 ready (or CMD's own), 1 not ready in time, 2 wrong usage, 4 a port that this user may not bind, 126
    CMD cannot be run, 127 CMD not found, 130 interrupted.
    """
    request = _read_request(ctx, **options)
    call_when_ended(_terminate)  # process 1 of a container has no default action for signals
    missing = None
    latest = {target: Readiness(target) for target in request.targets}
    try:
        progress = _progress(quiet, request)
        with progress:
            last = _wait(request, _remembering(progress, latest))
    except NotReadyError as error:
        missing, last = error, tuple(latest.values())  # with the ports that were not tried yet
    except (KeyboardInterrupt, SystemExit):
        if as_json:
            _print_document(request, tuple(latest.values()), ready=False, interrupted=True)
        raise
    if as_json:
        _print_document(request, last, ready=missing is None)
    _report(last, missing, quiet=quiet)
    if missing is not None:
        return status.FOUND
    if "command" in ctx.meta:
        _become(ctx.meta["command"])
    return status.FINE


def _read_request(
    ctx: click.Context,
    *,
    targets: Sequence[str],
    binds: tuple[Bind, ...],
    reuse: bool,
    timeout: float,
    interval: float,
    patience: float,
    status: range | Statuses | None,
    check_certificate: bool,
    cacert: str | None,
    **protocol: Any,
) -> _Request:
    if not targets and not binds:
        raise click.UsageError("nothing to wait for: give at least one target, such as db:5432", ctx)
    if reuse and not binds:
        raise click.UsageError("--reuseaddr belongs to --free", ctx)
    for name, value in (("--interval", interval), ("--attempt-timeout", patience)):
        if not 0 < value < math.inf:
            raise click.UsageError(f"{name} must be more than 0 seconds, and have an end", ctx)
    has_http = protocol["http"] is not None
    if status is not None and not has_http and not any(re.match("https?://", target) for target in targets):
        raise click.UsageError("--status belongs to --http, or to an http:// or https:// URL", ctx)
    try:
        verifier = choose_verifier(ctx, status=status, **protocol)
        wanted = tuple(dict.fromkeys(Wanted.of(target, verifier, http_status=status) for target in targets))
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error), ctx) from error
    if check_certificate or cacert is not None:
        wanted = check_certificates(ctx, wanted, cacert)
    if verifier is not None and all("://" in target for target in targets):
        raise click.UsageError("the URLs name their protocol: leave the protocol's option out", ctx)
    return _Request(wanted, binds, reuse, timeout, interval, patience)


def _remembering(progress: Progress, latest: dict[str, Readiness]) -> Callable[[Readiness], None]:
    def show_attempt(readiness: Readiness) -> None:
        latest[readiness.target] = readiness
        progress.show_attempt(readiness)

    return show_attempt


def _wait(request: _Request, on_attempt: Callable[[Readiness], None]) -> tuple[Readiness, ...]:
    """Wait for the servers, and then for the ports: a port that is free must still be so when the command starts."""
    start = time.monotonic()
    timeout = None if math.isinf(request.timeout) else request.timeout
    last: tuple[Readiness, ...] = ()
    if request.wanted:
        from tailbite.readiness.sync import wait

        last = wait(
            *cast("tuple[Any, ...]", request.wanted),
            timeout=timeout,
            interval=request.interval,
            patience=request.patience,
            on_attempt=on_attempt,
        )
    if request.binds:
        left = None if timeout is None else max(0.0, start + timeout - time.monotonic())
        last += _wait_for_ports(request, left, on_attempt)
    return last


def _wait_for_ports(
    request: _Request, left: float | None, on_attempt: Callable[[Readiness], None]
) -> tuple[Readiness, ...]:
    from tailbite.readiness.free import wait_until_free

    try:
        return wait_until_free(
            request.binds,
            reuse=request.reuse,
            timeout=left,
            interval=request.interval,
            on_attempt=on_attempt,
        )
    except NotReadyError as error:
        raise NotReadyError(error.targets, request.timeout) from None
    except OSError as error:
        whose = "server of this user" if error.errno in (errno.EACCES, errno.EPERM) else "server"
        raise Unsupported(f"no {whose} can bind here: {error.strerror or error}") from None


def _progress(quiet: bool, request: _Request) -> Progress:
    from tailbite.cli.show import wait

    if quiet or not request.timeout:  # a single attempt is reported at its end
        return wait.Hidden()
    return wait.LiveTable(request.targets) if sys.stderr.isatty() else wait.Lines()


def _print_document(request: _Request, last: Sequence[Readiness], *, ready: bool, interrupted: bool = False) -> None:
    emit_json(
        "wait",
        ready=ready,
        interrupted=interrupted,
        seconds=max(readiness.seconds for readiness in last),
        targets=[_fields(readiness) | place for readiness, place in zip(last, request.places(), strict=True)],
    )


def _report(last: Sequence[Readiness], missing: NotReadyError | None, *, quiet: bool) -> None:
    if missing is None:
        if not quiet:
            slowest = max(last, key=lambda readiness: readiness.seconds)
            what = str(slowest.target) if len(last) == 1 else f"all {len(last)}"
            outcome = slowest.status.value if len(last) == 1 else "ready"
            note(f"{what} {outcome} after {slowest.seconds:.1f} s")
        return
    after = f"after {missing.seconds:g} s" if missing.seconds else "at once"
    note(f"not ready {after}:")
    for readiness in last:
        print_to_stderr(f"  {plain(str(readiness))}")


def _fields(readiness: Readiness) -> dict[str, Any]:
    return {
        "target": readiness.target,
        "status": readiness.status,
        "saw": readiness.status,  # the name of "status" in the first release
        "detail": readiness.detail,
        "attempts": readiness.attempts,
        "seconds": readiness.seconds,
    }


def _place_to_connect(wanted: Wanted) -> dict[str, Any]:
    from tailbite.verifiers.tls import TLS

    target, verifier = wanted.target, wanted.verifier
    inside = verifier.inside if isinstance(verifier, TLS) else verifier
    return {
        "host": None if target.is_unix else target.host,
        "port": target.port,
        "path": target.host.replace("\0", "@", 1) if target.is_unix else None,
        "protocol": None if inside is None else inside.name,
        "tls": isinstance(verifier, TLS),
        "bind": False,
    }


def _place_to_bind(bind: Bind) -> dict[str, Any]:
    place = {"path": None, "protocol": None, "tls": False, "bind": True}
    return {"host": bind.host or None, "port": bind.port, **place}


def _terminate(number: int) -> NoReturn:
    sys.exit(128 + number)


def _become(command: list[str]) -> NoReturn:
    """Run ``command`` in place of this process: same process id, so signals and exit status are its own."""
    from tailbite.guards.program.exec import InheritedSignals, become, explain, original_environment, status_of

    if sys.stdout is not None:
        sys.stdout.flush()
    # A signal that came just now ends this process here; left to a handler, it would be lost by execve(2).
    for number in (signal.SIGINT, *ENDING):
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    failure = become(command, original_environment(), InheritedSignals.take_over())
    note(f"cannot run {command[0] or repr(command[0])}: {explain(failure)}")
    sys.exit(status_of(failure))
