"""``tailbite lab odds``: the probability of a self-connect over time."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from tailbite._extras import how_to_install
from tailbite.cli.lab.files import FIGURE, Files
from tailbite.cli.output import Unsupported, console, emit_json, note, reason_of
from tailbite.cli.params import DURATION, PORT_NUMBER, PORTS, RANGE, WHOLE
from tailbite.core.duration import spell_duration
from tailbite.core.odds import Odds, odds
from tailbite.core.ports import PortRange, PortSet
from tailbite.core.selection import Selection, circle_of
from tailbite.kernel.sysctl import has_random_steps

if TYPE_CHECKING:
    from pathlib import Path

    from tailbite.host.see.port_selection import SelectionEvidence

__all__ = ["command"]

_SHARES = (0.05, 0.5, 0.95)
_SIMULATED_DRAWS = 2e10
"""Hosts times attempts up to which hosts are simulated as well: about half a minute."""


@click.command("odds")
@click.option("--port", type=PORT_NUMBER, required=True, help="The port that the client connects to.")
@click.option("--range", "ephemeral", type=RANGE, help="The ephemeral range.  [default: this host's]")
@click.option(
    "--reserved",
    type=PORTS,
    help="Ports that are never chosen: reserved, or in use.  [default: this host's reserved ports, without --range]",
)
@click.option(
    "--every", type=DURATION, default="1s", show_default=True, help="Time between two connects of a client."
)
@click.option("--clients", type=WHOLE, default="1", show_default=True, help="Number of clients on the host.")
@click.option("--bind-first", "binds_first", is_flag=True, help="The client binds to port 0 before it connects.")
@click.option("--reuse-address", is_flag=True, help="With --bind-first: the client sets SO_REUSEADDR before.")
@click.option("--own-range", is_flag=True, help="The client sets IP_LOCAL_PORT_RANGE to the range.")
@click.option(
    "--system",
    type=click.Choice([selection.label for selection in Selection]),
    help="; ".join(f"{selection.label}: {selection.value}" for selection in Selection)
    + ".  [default: this kernel's, measured]",
)
@click.option("--outage", type=DURATION, help="Time without a listener: print the probability within that time.")
@click.option("--hosts", type=WHOLE, help="With --outage: number of hosts; print how many connect to themselves.")
@FIGURE
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the answer as one JSON object.")
def command(
    port: int,
    ephemeral: PortRange | None,
    reserved: PortSet | None,
    every: float,
    clients: int,
    binds_first: bool,
    reuse_address: bool,
    own_range: bool,
    system: str | None,
    outage: float | None,
    hosts: int | None,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Calculate whether and when a client that reconnects to a dead port of its own host connects to itself.

    \b
    Examples:
      tailbite lab odds --port 32246 --range 9000-65500 --every 1s
      tailbite lab odds --port 32774 --hosts 1e6 --outage 10m --every 100ms

    Exit status: 0; 2 wrong usage, 4 if the ephemeral range is not given and cannot be read here.
    """
    if hosts is not None and outage is None:
        raise click.UsageError("--hosts needs --outage, the time without a listener")
    if reuse_address and not binds_first:
        raise click.UsageError("--reuse-address has an effect only together with --bind-first")
    if outage is not None and outage < every:
        raise click.UsageError(f"an outage of {spell_duration(outage)} ends before the second attempt")
    (files := Files("odds", figure=figure)).check()
    scatters = ephemeral is None and system is None and has_random_steps()
    ephemeral, reserved = _range_and_reserved(ephemeral, reserved)
    selection, evidence = _selection(system)
    kind = {"binds_first": binds_first, "reuse_address": reuse_address, "own_range": own_range, "scatters": scatters}
    seen = odds(port, ephemeral, reserved, selection=selection, **kind)
    attempts = 0 if outage is None else int(outage / every * clients + 1e-9)
    simulated = None
    if hosts is not None and seen.is_possible:
        simulated = _simulate(port, ephemeral, reserved, selection, kind, hosts, attempts)
    if figure is not None:
        from tailbite.lab.draw_odds import draw_odds

        files.draw_figure(lambda stem: draw_odds(port, ephemeral, reserved, every, clients, stem))
    if as_json:
        _print_json(seen, evidence, every, clients, outage, hosts, simulated)
        return
    if evidence is not None and not evidence.is_measured:
        note(evidence.sentence())
    if scatters and reserved and not binds_first:
        note("ip_local_port_step_width is set: a search past a taken port is assumed to end at every free port alike")
    note(seen.sentence(every=every, clients=clients))
    if seen.is_possible:
        _print_table(seen, every, clients)
    if outage is not None:
        _print_outage(seen, every, clients, outage, hosts, simulated)


def _range_and_reserved(ephemeral: PortRange | None, reserved: PortSet | None) -> tuple[PortRange, PortSet]:
    """Return the given range and reserved ports, or those of this host."""
    if ephemeral is not None:
        return ephemeral, reserved or PortSet()
    from tailbite.kernel.sysctl import read_ephemeral_range, read_reserved_ports

    try:
        return read_ephemeral_range(), read_reserved_ports() if reserved is None else reserved
    except (OSError, ValueError) as error:
        reason = f"this system's ephemeral range cannot be read ({reason_of(error)}); give one with --range"
        raise Unsupported(reason) from error


def _selection(system: str | None) -> tuple[Selection, SelectionEvidence | None]:
    """Return the named way to choose source ports, or this kernel's and the reason to believe so."""
    if system is not None:
        return next(each for each in Selection if each.label == system), None
    from tailbite.host.see.port_selection import running_selection

    evidence = running_selection()
    return evidence.selection, evidence


def _simulate(
    port: int,
    ephemeral: PortRange,
    reserved: PortSet,
    selection: Selection,
    kind: dict[str, bool],
    hosts: int,
    attempts: int,
) -> int | None:
    if find_spec("numpy") is None:
        note(f"the hosts are calculated, not simulated; to simulate them as well: {how_to_install('lab')}")
        return None
    if hosts * attempts > _SIMULATED_DRAWS:
        note("the hosts are calculated, not simulated: so many attempts would take too long")
        return None
    from tailbite.lab.simulation import simulate_hosts

    circle = circle_of(ephemeral, reserved, selection=selection, **kind)
    assert circle is not None  # the caller has checked that a self-connect is possible
    return simulate_hosts(circle, port, hosts=hosts, attempts=attempts).hit


def _print_json(
    seen: Odds,
    evidence: SelectionEvidence | None,
    every: float,
    clients: int,
    outage: float | None,
    hosts: int | None,
    simulated: int | None,
) -> None:
    within = None if outage is None else seen.probability_within(outage, every=every, clients=clients)
    possible = seen.is_possible
    emit_json(
        "lab.odds",
        port=seen.port,
        range=seen.ephemeral,
        system=seen.selection,
        system_evidence=None if evidence is None else evidence.sentence(),
        binds_first=seen.binds_first,
        every=every,
        clients=clients,
        possible=possible,
        obstacle=seen.obstacle,
        candidates=seen.candidates,
        mean_attempts=round(seen.mean, 1) if possible else None,
        attempts_between=round(seen.between, 1) if possible else None,
        quantile_attempts={f"{share:g}": int(seen.quantile(share)) for share in _SHARES} if possible else None,
        mean_seconds=round(seen.seconds(every=every, clients=clients), 6) if possible else None,
        quantile_seconds={
            f"{share:g}": round(seen.seconds(share, every=every, clients=clients), 6) for share in _SHARES
        }
        if possible
        else None,
        outage=outage,
        probability=within,
        hosts=hosts,
        expected_hosts=None if hosts is None or within is None else round(hosts * within, 1),
        simulated_hosts=simulated,
        sentence=seen.sentence(every=every, clients=clients),
    )


def _print_table(seen: Odds, every: float, clients: int) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("attempts", justify="right")
    table.add_column("time", justify="right")
    rows: list[tuple[str, float, float]] = [
        (f"with probability {share:.0%}", seen.quantile(share), seen.seconds(share, every=every, clients=clients))
        for share in _SHARES
    ]
    rows.append(("on average", seen.mean, seen.seconds(every=every, clients=clients)))
    rows.append(("from one to the next", seen.between, seen.between * every / clients))
    for name, attempts, seconds in rows:
        table.add_row(name, f"{attempts:,.0f}", spell_duration(seconds))
    console().print(table)


def _print_outage(
    seen: Odds, every: float, clients: int, outage: float, hosts: int | None, simulated: int | None
) -> None:
    within = seen.probability_within(outage, every=every, clients=clients)
    screen = console()
    screen.print(f"within {spell_duration(outage)}: {_percent(within)}")
    if hosts is not None:
        beside = "" if simulated is None else f" (simulated: {simulated:,})"
        screen.print(f"of {hosts:,} hosts: {hosts * within:,.1f} connect to themselves{beside}")


def _percent(share: float) -> str:
    return f"{share:.2%}" if share >= 0.001 or share == 0 else f"{share:.2e}"
