"""``tailbite lab parity``: the source ports that the kernel chooses at all."""

from __future__ import annotations

import click

from tailbite.cli import status
from tailbite.cli.lab.group import private_network
from tailbite.cli.output import console, emit_json, note

__all__ = ["command"]


@click.command("parity")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the table as one JSON object.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Compare model and kernel in sixteen cells: can this client connect to itself on this port?

    Even and odd port, even and odd low end of the range, connect() alone and bind() first, IPv4 and IPv6. Without
    IPv6 on this system, eight cells.

    \b
    Examples:
      tailbite lab parity
      tailbite lab parity --json

    Exit status: 0 if they agree in all cells, 1 if not, 4 if this system does not permit a private network.
    """
    from tailbite.lab.parity import has_ipv6_loopback, measure_cell, parity_cells

    private_network("the table")
    has_ipv6 = has_ipv6_loopback()
    if not has_ipv6:
        note("this system has no IPv6, so the table has IPv4 alone")
    measured = [measure_cell(cell) for cell in parity_cells(ipv6=has_ipv6)]
    agree = all(cell.agrees for cell in measured)
    if as_json:
        emit_json("lab.parity", cells=measured, agree=agree)
        ctx.exit(status.FINE if agree else status.FOUND)
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("range", "port", "client", "address", "model", "kernel", ""):
        table.add_column(heading, no_wrap=True)
    for cell in measured:
        table.add_row(
            str(cell.ephemeral),
            str(cell.port),
            "binds first" if cell.binds_first else "connects",
            "IPv6" if cell.ipv6 else "IPv4",
            "itself" if cell.model else "never",
            f"{cell.hits} of {cell.attempts:,}",
            "agree" if cell.agrees else "[red]DIFFER[/red]",
        )
    console().print(table)
    note("model and kernel agree in all cells" if agree else "model and kernel differ")
    ctx.exit(status.FINE if agree else status.FOUND)
