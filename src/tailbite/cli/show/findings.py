"""Layout of findings: a paragraph, the facts, the ways out. One layout for ``why`` and ``doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tailbite.cli.output import console, plain
from tailbite.host.explain.finding import Confidence, Severity
from tailbite.host.explain.phrases import spell_outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from tailbite.host.explain.finding import Finding
    from tailbite.host.explain.why import Explanation

__all__ = ["print_explanation", "print_finding"]

_SHOWN = 10  # namespaces that have a line of their own
_STYLES = {
    Severity.CRITICAL: "bold red",
    Severity.WARNING: "bold yellow",
    Severity.NOTICE: "bold",
    Severity.FINE: "bold green",
}


def print_explanation(seen: Explanation, port: int) -> None:
    """Print the answer about a port to stdout: this namespace first, the others a line each."""
    out = console()
    rows = [(f"bind {one.address.spell(port)}", spell_outcome(one)) for one in seen.forecasts]
    rows += [(fact.name, fact.words) for fact in seen.settings]
    for number, finding in enumerate(seen.findings):
        if number:
            out.print()
        print_finding(out, finding, () if number else rows)
    if seen.elsewhere:
        if seen.findings:
            out.print()
        out.print(Text("In other network namespaces, which do not share ports with this one:"))
    shown = sorted(seen.elsewhere, key=lambda one: not one.severity.is_bad)[:_SHOWN]
    for finding in shown:
        command = finding.remedies[0].commands[0] if finding.remedies else ""
        what = finding.what.removeprefix("In another network namespace, ").removesuffix(".")
        _print_indented(out, Text(f"{finding.code}  {plain(what)}"), 2)
        out.print(Text(f"      {plain(command)}"), soft_wrap=True)
    if more := len(seen.elsewhere) - len(shown):
        _print_indented(out, Text(f"and {more} more namespace{'' if more == 1 else 's'}, which --json lists"), 2)


def print_finding(
    out: Console, finding: Finding, more: Iterable[tuple[str, str]] = (), *, again: bool = False
) -> None:
    """Print one finding.

    Args:
        out: the console.
        finding: the finding.
        more: rows to print below its facts.
        again: True if its code was printed before: then only the differences are printed.
    """
    head = Text(finding.code, style=_STYLES[finding.severity])
    sure = "" if finding.confidence is Confidence.CERTAIN else f", {finding.confidence.label}"
    out.print(head + Text(f"  {finding.severity.label}{sure}", style="dim"))
    out.print(Text(plain(finding.what if again else f"{finding.what} {finding.why}".strip())))
    _print_rows(out, [*((fact.name, fact.words) for fact in finding.facts), *more])
    remedies = finding.remedies[:1] if again else finding.remedies
    if remedies:
        out.print("\nWhat to do:")
    for remedy in remedies:
        root = " (needs root)" if remedy.needs_root else ""
        step = Table.grid(padding=(0, 1, 0, 0))
        step.add_row("-", Text(f"{plain(remedy.text)}{root}"))
        out.print(Padding(step, (0, 0, 0, 2), expand=False))
        for line in remedy.commands:
            # Readers copy a command: it is not wrapped, however long it is.
            out.print(Text(f"      {plain(line)}"), soft_wrap=True)
    if not again:
        out.print(Text(f"\nMore: tailbite why --explain {finding.code}", style="dim"))


def _print_rows(out: Console, rows: list[tuple[str, str]]) -> None:
    if not rows:
        return
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="dim", overflow="fold")
    facts.add_column(overflow="fold")
    for name, value in rows:
        facts.add_row(Text(plain(name)), Text(plain(value)))
    out.print()
    out.print(Padding(facts, (0, 0, 0, 2), expand=False))


def _print_indented(out: Console, text: Text, margin: int) -> None:
    out.print(Padding(text, (0, 0, 0, margin), expand=False))
