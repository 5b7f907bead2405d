"""``tailbite why``: who holds a port, as what, and what to do about it."""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from tailbite.cli import status
from tailbite.cli.output import emit_json, note
from tailbite.cli.params import PLACE, chosen_namespaces, netns_option

if TYPE_CHECKING:
    from tailbite.host.explain.why import Explanation
    from tailbite.host.see.own_address import HostAddress
    from tailbite.host.see.port import PortSnapshot
    from tailbite.host.see.records import NotVisible

__all__ = ["command"]

_ALL_CODES = "all"


@click.command("why")
@click.argument("place", type=PLACE, required=False, metavar="[PORT|HOST:PORT]")
@click.option(
    "--explain",
    is_flag=False,
    flag_value=_ALL_CODES,
    metavar="[CODE]",
    help="Print the page of a finding, such as TB101; without a code, list them.",
)
@netns_option("Ask here, and in all others that are permitted; or here alone; or inside another one.")
@click.option("-j", "--json", "as_document", is_flag=True, help="Print one JSON document.")
def command(place: tuple[str | None, int] | None, explain: str | None, wanted: str, as_document: bool) -> int:
    """Say why a port is in use, or refused, or free.

    PORT is a number or a service name (ssh). The answer says what holds the port: a server, a client that is
    connected to itself, another connection whose source port it is, TIME-WAIT and of which side, a socket that is
    bound and does not listen, a socket of the kernel; what a server would meet that binds the port now; and what
    to do. With HOST, the answer is about that address. Other network namespaces follow, a line each.

    The command never connects to the port and never binds it: nothing that waits for the port can notice. Other
    users' processes and other namespaces need root.

    \b
    Examples:
      tailbite why 8080
      tailbite why 127.0.0.1:ssh --netns self
      tailbite why --explain TB103

    Exit status: 0 as it should be, 1 something is in the way or at risk, 3 not everything could be seen.
    """
    if explain is not None:
        if place is not None:
            raise click.UsageError("--explain prints a page about a code: it takes no port.")
        return _explain(explain)
    if place is None:
        raise click.UsageError("which port? Write tailbite why PORT or tailbite why HOST:PORT.")
    host, port = place
    _refuse_groups(host)
    seen, not_visible = _inspect(host, port, wanted)
    if as_document:
        _emit(host, port, seen, not_visible)
    else:
        from tailbite.cli.show.findings import print_explanation

        print_explanation(seen, port)
        for item in not_visible:
            note(f"could not see {item}")
    if seen.is_bad:
        return status.FOUND
    return status.PARTLY_VISIBLE if not_visible and not seen.findings else status.FINE


def _refuse_groups(host: str | None) -> None:
    """Refuse an address of many hosts: connect(2) to one fails for TCP (ENETUNREACH), so no answer would help."""
    address = None if host is None else ipaddress.ip_address(host.partition("%")[0])
    if address is not None and (address.is_multicast or str(address) == "255.255.255.255"):
        kind = "multicast" if address.is_multicast else "broadcast"
        raise click.UsageError(f"{host} is a {kind} address, and TCP has none: ask about an address of one host.")


def _explain(code: str) -> int:
    from tailbite.host.explain.pages import UnknownCode, known_codes, page_title, read_page

    if code == _ALL_CODES:
        for each in known_codes():
            click.echo(f"{each}  {page_title(each)}")
        return status.FINE
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


def _inspect(host: str | None, port: int, wanted: str) -> tuple[Explanation, tuple[NotVisible, ...]]:
    from tailbite.host.explain.exhaustion import exhaustion_findings
    from tailbite.host.explain.limits import within_permissions
    from tailbite.host.explain.why import explain_foreign_address, explain_port, has_address
    from tailbite.host.see.abilities import socket_abilities
    from tailbite.host.see.exhaustion import destinations_of
    from tailbite.host.see.host_guard import refused_versions
    from tailbite.host.see.permissions import permissions_here
    from tailbite.host.see.port import inspect_port
    from tailbite.host.see.port_selection import running_selection
    from tailbite.host.see.visit import call_in_namespace

    places, unseen = chosen_namespaces(wanted)
    here, *others = inspect_port(port, places)
    items = (*unseen, *(item for shot in (here, *others) for item in shot.not_visible))
    not_visible = tuple(dict.fromkeys(item for item in items if not item.is_gone or item in here.not_visible))
    host = _with_interface(host, here)
    address = _ask_address(host, here)
    if host is not None and not address.is_own and not any(has_address(use, host) for use in here.uses):
        return explain_foreign_address(here, host, address), not_visible
    seen = explain_port(
        here,
        others,
        host,
        address=address,
        abilities=socket_abilities(use.socket.state for use in here.uses),
        selection=partial(call_in_namespace, here.namespace, running_selection),
        guarded=partial(call_in_namespace, here.namespace, refused_versions),
        more=exhaustion_findings(destinations_of(places[0], here.ephemeral, here.reserved), host=host, port=port),
    )
    return replace(seen, findings=within_permissions(seen.findings, permissions_here())), not_visible


def _with_interface(host: str | None, here: PortSnapshot) -> str | None:
    """Return the host with the index of its interface instead of the name."""
    if host is None or "%" not in host:
        return host
    plain, _, zone = host.partition("%")
    for index, name in here.devices.items():
        if zone in (name, str(index)):
            return f"{plain}%{index}"
    names = ", ".join(here.devices.values())
    raise click.UsageError(f"there is no interface {zone!r} in {here.namespace}; there are: {names}")


def _ask_address(host: str | None, here: PortSnapshot) -> HostAddress:
    from tailbite.host.see.own_address import HostAddress, ask_address
    from tailbite.host.see.visit import call_in_namespace

    if host is not None and not ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        with contextlib.suppress(OSError):  # not known: what the sockets say holds all the same
            return call_in_namespace(here.namespace, partial(ask_address, host))
    return HostAddress(is_own=True, may_bind=True)


def _emit(host: str | None, port: int, seen: Explanation, not_visible: tuple[NotVisible, ...]) -> None:
    emit_json(
        "why",
        port=port,
        host=host,
        binds=[
            {
                "address": one.address.host,
                "v6_only": one.address.v6_only,
                "plain": one.plain,
                "reuse_address": one.reuse_address,
            }
            for one in seen.forecasts
        ],
        findings=seen.findings,
        elsewhere=seen.elsewhere,
        settings=seen.settings,
        not_visible=not_visible,
    )
