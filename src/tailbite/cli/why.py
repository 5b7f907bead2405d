"""``tailbite why``: who holds a port, as what, and what to do about it."""

from __future__ import annotations

import ipaddress
from functools import partial
from typing import TYPE_CHECKING

import click

from tailbite.cli import status
from tailbite.cli.output import emit_json, note
from tailbite.core.address import canonical_host

if TYPE_CHECKING:
    from tailbite.host.explain.finding import Finding
    from tailbite.host.see.records import NotVisible

__all__ = ["command"]


class _Place(click.ParamType[tuple[str | None, int]]):
    """PORT, HOST:PORT or [HOST]:PORT; HOST is an address, localhost, or * for any."""

    name = "port|host:port"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str | None, int]:
        if isinstance(value, tuple):
            return value
        text = str(value).strip()
        host, colon, port = text.rpartition(":")
        if not colon and "." in port:
            self.fail(f"{text!r} names no port: write it as {text}:PORT", param, ctx)
        if not (port.isascii() and port.isdigit()) or not 1 <= int(port) <= 65535 or len(port) > 5:
            self.fail(f"{text!r} names no port: write a number from 1 to 65535, or HOST:PORT", param, ctx)
        host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
        if host in ("", "*"):
            return None, int(port)
        if host == "localhost":
            return "127.0.0.1", int(port)
        try:
            return canonical_host(host), int(port)
        except ValueError:
            self.fail(f"{host!r} is no IP address: write one, or localhost, or the port alone", param, ctx)


@click.command("why")
@click.argument("place", type=_Place(), required=False, metavar="[PORT|HOST:PORT]")
@click.option("--explain", metavar="CODE", help="Print the page of a finding, such as TB101.")
@click.option(
    "--netns",
    "wanted",
    default="all",
    show_default=True,
    metavar="all|self|PID|NAME",
    help="Look from here, and into all others that are permitted; or here alone; or from inside another one.",
)
@click.option("--json", "as_document", is_flag=True, help="Print one JSON document.")
def command(place: tuple[str | None, int] | None, explain: str | None, wanted: str, as_document: bool) -> int:
    """Say why a port is in use, or refused, or free.

    Who holds it and as what: a server, a client that is connected to itself, another connection whose source port it
    is, TIME-WAIT and of whom, a socket that is bound and does not listen, a server on another address or in another
    network namespace; or nobody, and whether a server could bind it and how likely a client is to take it.

    Never connects to the port and never binds it: nothing that waits for the port can notice. Other users' processes
    and other namespaces need root.

    Exit status: 0 as it should be, 1 something is in the way or at risk, 3 not everything could be seen.
    """
    if explain is not None:
        if place is not None:
            raise click.UsageError("--explain prints a page about a code: it takes no port.")
        return _explain(explain)
    if place is None:
        raise click.UsageError("which port? Write tailbite why PORT or tailbite why HOST:PORT.")
    host, port = place
    findings, not_visible = _look(host, port, wanted)
    if as_document:
        emit_json("why", port=port, host=host, findings=findings, not_visible=not_visible)
    else:
        _show(findings, not_visible)
    return _status(findings, not_visible)


def _explain(code: str) -> int:
    from tailbite.host.explain.pages import UnknownCode, read_page

    try:
        text = read_page(code)
    except UnknownCode as error:
        raise click.BadParameter(str(error), param_hint="--explain") from None
    from rich.markdown import Markdown

    from tailbite.cli.output import console

    out = console()
    if out.is_terminal:
        out.print(Markdown(text))
    else:
        click.echo(text, nl=False)
    return status.FINE


def _look(host: str | None, port: int, wanted: str) -> tuple[tuple[Finding, ...], tuple[NotVisible, ...]]:
    from tailbite.host.explain.why import not_of_this_host, why
    from tailbite.host.see import namespaces
    from tailbite.host.see.port import inspect_port, is_own_address
    from tailbite.host.see.visit import call_in_namespace

    try:
        places, unseen = namespaces.choose_namespaces(wanted)
    except namespaces.UnknownNamespace as error:
        raise click.BadParameter(str(error), param_hint="--netns") from None
    looks = inspect_port(port, places)
    not_visible = (*unseen, *(item for look in looks for item in look.not_visible))
    here, others = looks[0], looks[1:]
    if host is not None and not ipaddress.ip_address(host).is_unspecified:
        try:
            if not call_in_namespace(places[0], partial(is_own_address, host)):
                return (not_of_this_host(here, host),), not_visible
        except OSError:
            pass  # not known, then: what the sockets say holds all the same
    return why(here, others, host), tuple(dict.fromkeys(not_visible))


def _status(findings: tuple[Finding, ...], not_visible: tuple[NotVisible, ...]) -> int:
    from tailbite.host.explain.finding import Severity

    if any(one.severity in (Severity.CRITICAL, Severity.WARNING) for one in findings):
        return status.FOUND
    return status.PARTLY_BLIND if not_visible and not findings else status.FINE


def _show(findings: tuple[Finding, ...], not_visible: tuple[NotVisible, ...]) -> None:
    from tailbite.cli.show.findings import print_findings

    print_findings(findings)
    for item in not_visible:
        note(f"could not see {item}")
