"""``tailbite exporter``: self-connects and risks of this host as Prometheus metrics."""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tailbite._extras import needed
from tailbite.cli import status
from tailbite.cli.output import Unsupported, note
from tailbite.cli.params import DURATION, Share
from tailbite.cli.signals import call_when_ended
from tailbite.kernel.sysctl import read_ephemeral_range
from tailbite.watch.document import as_line
from tailbite.watch.inspector import BUDGET, EVERY_S, Inspector
from tailbite.watch.line_writer import LineWriter
from tailbite.watch.records import SourceKind
from tailbite.watch.sources import open_source
from tailbite.watch.watcher import Watcher

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from tailbite.watch.exporter import Exporter

__all__ = ["command"]

DEFAULT_ADDRESS: Final = ":9745"
"""A port below the default ephemeral range, so that no client takes it while the exporter restarts."""


class _Address(click.ParamType[tuple[str, int]]):
    """HOST:PORT, [IPV6]:PORT, or :PORT for every address."""

    name = "address"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]]*)):(\d{1,5})", str(value))
        if match is None or not 0 < int(match[3]) < 65536:
            self.fail(f"{value} is not a valid address: write 127.0.0.1:9745, [::1]:9745 or :9745", param, ctx)
        return match[1] or match[2] or "", int(match[3])


@click.command("exporter")
@click.option(
    "--web.listen-address",
    "address",
    type=_Address(),
    default=DEFAULT_ADDRESS,
    show_default=True,
    metavar="[HOST]:PORT",
    help="Where to serve /metrics and /-/healthy.",
)
@click.option("--web.systemd-socket", "activated", is_flag=True, help="Serve on the socket that systemd passes.")
@click.option("--web.tls-cert", "certificate", metavar="FILE", help="Serve TLS with this certificate (PEM).")
@click.option("--web.tls-key", "key", metavar="FILE", help="The certificate's key, if it is in another file.")
@click.option("--web.client-ca", "client_ca", metavar="FILE", help="Demand a client certificate of this CA.")
@click.option(
    "--web.basic-auth",
    "passwords",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Demand a user name and password: a line USER:PASSWORD for each user. Use it with TLS.",
)
@click.option(
    "--textfile",
    metavar="FILE",
    help="Serve nothing; write the metrics to FILE after each inspection, for node_exporter's textfile collector.",
)
@click.option("--once", is_flag=True, help="With --textfile: inspect once, write, and end.")
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
    help="Where events come from; see tailbite watch.",
)
@click.option(
    "--every", type=DURATION, default=f"{EVERY_S:.0f}s", show_default=True, help="Time between inspections."
)
@click.option(
    "--budget",
    type=Share(0.01, 100),
    default=BUDGET * 100,
    show_default=True,
    metavar="PERCENT",
    help="Percent of one CPU for inspections. Namespaces beyond it wait for their turn, and one with very many "
    "sockets is inspected less often, but within a minute.",
)
@click.option("--log/--no-log", "logs", default=True, help="Print a line of JSON for each self-connect, or do not.")
def command(**options: Any) -> int:
    """Serve self-connects and risks of this host as Prometheus metrics.

    The exporter watches as tailbite watch does, at intervals of its own. Scrapes read results from memory and cost
    next to nothing. It runs as any user; metrics tell what that user may not see (tailbite_namespaces,
    tailbite_looks).
    Labels are bounded: at most 50 ports, and no process, container or address. Those are in the log, a line of JSON
    for each self-connect on stdout.

    \b
    Examples:
      tailbite exporter
      tailbite exporter --textfile /var/lib/node_exporter/tailbite.prom --once

    Exit status: 0 ended by SIGTERM, SIGHUP or --once, 2 wrong usage, 4 the address cannot be used, or
    prometheus-client is not installed, 130 interrupted.
    """
    return _run(**options)


def _run(
    *,
    address: tuple[str, int],
    activated: bool,
    certificate: str | None,
    key: str | None,
    client_ca: str | None,
    passwords: Path | None,
    textfile: str | None,
    once: bool,
    place: str,
    wanted: str,
    every: float,
    budget: float,
    logs: bool,
) -> int:
    _check(textfile, once=once, tls=certificate, parts=(key, client_ca))
    try:
        with needed("tailbite exporter", extra="prometheus"):
            from tailbite.watch.exporter import Exporter, read_guard
    except ModuleNotFoundError as error:
        raise Unsupported(str(error)) from None
    users, tls = _read_passwords(passwords), _tls(certificate, key, client_ca)
    sock = None if textfile is not None else _socket(address, activated=activated)
    source = _source(wanted, only_own=place == "self")
    watcher = Watcher(source, Inspector(only_own=place == "self", every=every, budget=budget / 100))
    log = LineWriter(sys.stdout.fileno(), lambda n: as_line({"event": "dropped", "lines": n})) if logs else None
    exporter = Exporter(watcher, log, guard=read_guard, with_process=textfile is None)
    try:
        if sock is None:
            assert textfile is not None
            return _write(exporter, textfile, once=once)
        return _serve(exporter, sock, users, tls)
    finally:
        source.close()
        if log is not None:
            log.close()


def _check(textfile: str | None, *, once: bool, tls: str | None, parts: tuple[str | None, ...]) -> None:
    if textfile == "":
        raise click.UsageError("--textfile needs the name of a file.")
    if textfile is not None and Path(textfile).is_dir():  # a missing folder may still be made
        raise click.UsageError(f"--textfile {textfile} is a folder: give the name of a file in it")
    if once and textfile is None:
        raise click.UsageError("--once writes a file: it needs --textfile FILE.")
    if tls is None and any(parts):
        raise click.UsageError("--web.tls-key and --web.client-ca are for TLS: they need --web.tls-cert FILE.")


def _source(wanted: str, *, only_own: bool) -> Any:
    try:
        source = open_source(None if wanted == "auto" else SourceKind(wanted), only_own=only_own)
    except OSError as error:
        raise Unsupported(
            f"--source {wanted} cannot be used here: {error.strerror or error}; use --source auto"
        ) from None
    note(f"source of events: {source.kind.description}")
    for refused in source.state().refused:
        note(f"not available: {refused.what.partition(':')[0]}: {refused.why}")
    return source


def _read_passwords(path: Path | None) -> Mapping[str, str] | None:
    if path is None:
        return None
    from tailbite.watch.http_server import read_passwords

    try:
        return read_passwords(path)
    except (OSError, ValueError) as error:
        text = f"cannot read {path}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise click.BadParameter(text, param_hint="--web.basic-auth") from None


def _tls(certificate: str | None, key: str | None, client_ca: str | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    from tailbite.watch.http_server import tls_context

    try:
        return tls_context(certificate, key, client_ca)
    except (OSError, ValueError) as error:
        text = f"cannot read {error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise click.BadParameter(text, param_hint="--web.tls-cert") from None


def _socket(address: tuple[str, int], *, activated: bool) -> socket.socket:
    from tailbite.watch.http_server import activated_socket, listening_socket

    host, port = address
    try:
        if activated:
            passed = activated_socket()
            if passed is None:
                raise Unsupported("--web.systemd-socket: systemd passed no socket; start the .socket unit")
            return passed
        sock = listening_socket(host, port)
    except OSError as error:
        raise Unsupported(_why_not_served(error, host, port, activated=activated)) from None
    _warn_if_exposed(port)
    return sock


def _why_not_served(error: OSError, host: str, port: int, *, activated: bool) -> str:
    reason = str(error.strerror or error).partition(" (while attempting")[0]
    if activated:
        return f"the socket of systemd cannot be served: {reason}"
    if isinstance(error, socket.gaierror):
        return f"{host} cannot be served: {reason}; give an address of this host"
    hint = {
        errno.EADDRINUSE: f"run tailbite why {port}",
        errno.EADDRNOTAVAIL: "give an address of this host",
        errno.EACCES: "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE",
    }.get(error.errno or 0)
    return f"port {port} cannot be served: {reason}{f'; {hint}' if hint else ''}"


def _warn_if_exposed(port: int) -> None:
    try:
        ephemeral = read_ephemeral_range()
    except (OSError, ValueError):
        return
    if port in ephemeral:
        note(
            f"port {port} lies in the ephemeral range ({ephemeral}): a client can get it while the exporter is down; "
            f"choose a port below {ephemeral.low}, or run tailbite fix --reserve {port}"
        )


def _write(exporter: Exporter, textfile: str, *, once: bool) -> int:
    stop = threading.Event()
    call_when_ended(lambda _: stop.set())
    written = 0
    trouble = ""
    while not stop.is_set():
        exporter.step(0.0 if once else 1.0)
        if exporter.state.last_round is None or exporter.changes == written:
            continue
        try:
            exporter.write_textfile(textfile)
            written, trouble = exporter.changes, ""
        except OSError as error:
            text = f"cannot write {textfile}: {error.strerror}"
            if once:
                raise click.BadParameter(text, param_hint="--textfile") from None
            if text != trouble:  # said once: a full disk may have space again
                note(text)
            trouble = text
        if once:
            break
    return status.FINE


def _serve(
    exporter: Exporter, sock: socket.socket, users: Mapping[str, str] | None, tls: ssl.SSLContext | None
) -> int:
    from tailbite.watch.http_server import application, make_server

    server = make_server(sock, application(exporter.registry, exporter.health, users), tls)
    thread = threading.Thread(target=server.serve_forever, name="tailbite-http", daemon=True)
    # The watch runs in the main thread, which signals interrupt; inspections change its network namespace.
    call_when_ended(lambda _: exporter.stop())
    host, port = sock.getsockname()[:2] if not isinstance(sock.getsockname(), str) else ("", 0)
    thread.start()
    note(f"serving http{'s' if tls else ''}://{f'[{host}]' if ':' in str(host) else host}:{port}/metrics")
    _notify_systemd()
    try:
        exporter.run()
    finally:
        server.shutdown()
        server.server_close()
    return status.FINE


def _notify_systemd() -> None:
    """Tell systemd that the service is ready (sd_notify(3)); nothing where it did not ask."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(b"READY=1", f"\0{path[1:]}" if path.startswith("@") else path)
        except OSError as error:
            note(f"systemd could not be notified that the exporter is ready: {error.strerror}")
