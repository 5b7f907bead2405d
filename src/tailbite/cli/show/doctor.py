"""Report of ``tailbite doctor``: a few facts per namespace, its findings, and a summary line."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from tailbite.cli.output import plain
from tailbite.cli.show.findings import print_finding
from tailbite.core.ports import shortened
from tailbite.host.explain.finding import Severity
from tailbite.kernel.release import kernel_release

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from tailbite.host.explain.checkup import Checkup
    from tailbite.host.explain.finding import Finding
    from tailbite.host.explain.subject import Subject
    from tailbite.host.see.records import Namespace

__all__ = ["print_report", "summary"]

_IN_FULL = 10
"""So many other namespaces are printed in full, those with the most severe findings."""


def print_report(out: Console, seen: Checkup, findings: Sequence[Finding]) -> None:
    """Print the report.

    Args:
        out: the console.
        seen: the checkup.
        findings: those of its findings that are reported.
    """
    out.print(_kernel(seen))
    if not seen.selection.is_measured:
        out.print(Text(seen.selection.sentence()))
    by_namespace: dict[Namespace, list[Finding]] = {}
    for one in findings:
        by_namespace.setdefault(one.namespace, []).append(one)
    in_full, folded = _divided(seen.subjects, by_namespace)
    for subject in in_full:
        _print_subject(out, subject, by_namespace.get(subject.seen.namespace, []))
    alike = Counter(_counts(by_namespace[subject.seen.namespace]) for subject in folded)
    if alike:
        out.print()
        out.print(Text("Counted only (--json lists all, --netns shows one in full):"))
    for counts, number in alike.most_common():
        words = f"namespace has {counts}" if number == 1 else f"namespaces have {counts} each"
        out.print(Text(f"  {number} more {words}"))


def _divided(
    subjects: Sequence[Subject], by_namespace: dict[Namespace, list[Finding]]
) -> tuple[list[Subject], list[Subject]]:
    """Return the namespaces to print in full, the caller's own first, and those to count.

    A host may have hundreds of namespaces. Those without a finding are left to the summary.
    """
    if len(subjects) == 1:
        return list(subjects), []
    own = [subject for subject in subjects if subject.seen.namespace.is_own]
    others = [one for one in subjects if not one.seen.namespace.is_own and one.seen.namespace in by_namespace]
    order = list(Severity)
    others.sort(key=lambda subject: min(order.index(one.severity) for one in by_namespace[subject.seen.namespace]))
    return own + others[:_IN_FULL], others[_IN_FULL:]


def _print_subject(out: Console, subject: Subject, findings: Sequence[Finding]) -> None:
    out.print()
    out.print(Text(plain(str(subject.seen.namespace)), style="bold"))
    out.print(_facts(subject))
    told: set[str] = set()
    for one in findings:
        out.print()
        print_finding(out, one, again=one.code in told)
        told.add(one.code)
    if not findings:
        out.print(Text("  nothing found", style="green"))


def summary(findings: Sequence[Finding], *, namespaces: int, hidden: int, accepts: bool) -> str:
    """Return the last line.

    Args:
        findings: the findings that were printed.
        namespaces: how many namespaces were inspected.
        hidden: how many findings are less severe than asked for.
        accepts: True if some findings were left out because they are accepted.
    """
    places = f"{namespaces} network namespace{'' if namespaces == 1 else 's'}"
    rest = f"; {hidden} less severe not shown" if hidden else ""
    rest += "; without what --ignore and --baseline accept" if accepts else ""
    if not findings:
        return f"Nothing found in {places}{rest}."
    number = len(findings)
    return f"{number} finding{'' if number == 1 else 's'} in {places}: {_counts(findings)}{rest}."


def _counts(findings: Sequence[Finding]) -> str:
    parts = []
    for severity in Severity:
        codes = Counter(one.code for one in findings if one.severity is severity)
        if codes:
            names = ", ".join(f"{code} x{count}" if count > 1 else code for code, count in sorted(codes.items()))
            parts.append(f"{codes.total()} {severity.label} ({names})")
    return ", ".join(parts)


def _kernel(seen: Checkup) -> Text:
    words = {True: "yes", False: "no", None: "not known"}
    able = ", ".join(f"{one.name} {words[one.present]}" for one in seen.abilities)
    return Text(f"Linux {kernel_release()}: {able}")


def _facts(subject: Subject) -> Table:
    seen = subject.seen
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    rows = [
        ("ephemeral range", f"{seen.ephemeral} ({_ports(len(seen.ephemeral or ()))})"),
        ("reserved", f"{shortened(str(seen.reserved))} ({_ports(len(seen.reserved))})" if seen.reserved else "none"),
        ("listeners", _listeners(subject)),
        ("self-connects", _self_connects(subject)),
        ("settings", ", ".join(f"{item.name} {item.value}" for item in seen.sysctls if item.value is not None)),
    ]
    for name, value in rows:
        table.add_row(f"  {name}", value)
    return table


def _self_connects(subject: Subject) -> str:
    held, left = len(subject.seen.held), len(subject.seen.time_waits)
    return f"{held} held, {left} in TIME-WAIT" if held or left else "none"


def _listeners(subject: Subject) -> str:
    seen = subject.seen
    ports = {one.endpoints.local.port for one in seen.listeners}
    inside = {port for port in ports if seen.ephemeral is not None and port in seen.ephemeral}
    bare = {port for port in inside if port not in (seen.reserved or ())}
    if not inside:
        return f"on {_ports(len(ports))}, none inside the range" if ports else "none"
    return f"on {_ports(len(ports))}, {len(inside)} inside the range, {len(bare)} of them not reserved"


def _ports(count: int) -> str:
    return f"{count} port{'' if count == 1 else 's'}"
