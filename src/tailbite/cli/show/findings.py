"""Findings for eyes: a paragraph, the facts, the ways out; at most 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tailbite.cli.output import console, plain
from tailbite.host.explain.finding import Confidence, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from tailbite.host.explain.finding import Finding

__all__ = ["print_findings"]

_STYLES = {
    Severity.CRITICAL: "bold red",
    Severity.WARNING: "bold yellow",
    Severity.NOTICE: "bold",
    Severity.FINE: "bold green",
}


def print_findings(findings: Iterable[Finding]) -> None:
    """Print each finding to stdout."""
    out = console()
    for number, finding in enumerate(findings):
        if number:
            out.print()
        _show(out, finding)


def _show(out: Console, finding: Finding) -> None:
    head = Text(finding.code, style=_STYLES[finding.severity])
    sure = "" if finding.confidence is Confidence.CERTAIN else f", {finding.confidence.label}"
    out.print(head + Text(f"  {finding.severity.label}{sure}", style="dim"))
    out.print(Text(f"{plain(finding.what)} {plain(finding.why)}"))
    if finding.facts:
        facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        facts.add_column(style="dim", overflow="fold")
        facts.add_column(overflow="fold")
        for fact in finding.facts:
            facts.add_row(Text(plain(fact.name)), Text(plain(fact.value)))
        out.print()
        out.print(Padding(facts, (0, 0, 0, 2), expand=False))
    if finding.remedies:
        out.print("\nWhat to do:")
    for remedy in finding.remedies:
        root = " (needs root)" if remedy.needs_root else ""
        step = Table.grid(padding=(0, 1, 0, 0))
        step.add_row("-", Text(f"{plain(remedy.text)}{root}"))
        out.print(Padding(step, (0, 0, 0, 2), expand=False))
        for line in remedy.commands:
            # A command is to be copied: it is not wrapped, however long it is.
            out.print(Text(f"      {plain(line)}"), soft_wrap=True)
    out.print(Text(f"\nMore: tailbite why --explain {finding.code}", style="dim"))
