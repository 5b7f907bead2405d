"""How ``tailbite doctor`` talks to people: a few facts per namespace, then its findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tailbite.cli.output import plain
from tailbite.core.ports import shortened
from tailbite.host.explain.finding import Severity
from tailbite.kernel.release import kernel_release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from tailbite.host.explain.checkup import Checkup
    from tailbite.host.explain.finding import Finding
    from tailbite.host.explain.subject import Subject

__all__ = ["report"]

_STYLES = {Severity.CRITICAL: "bold red", Severity.WARNING: "yellow", Severity.NOTICE: "cyan", Severity.FINE: "green"}


def report(seen: Checkup) -> Iterator[RenderableType]:
    """Yield what to print, in its order."""
    yield _kernel(seen)
    for subject in seen.subjects:
        yield Text()
        yield Text(plain(str(subject.seen.namespace)), style="bold")
        yield _facts(subject)
        found = seen.of(subject.seen.namespace)
        told: set[str] = set()
        for one in found:
            yield _finding(one, again=one.code in told)
            told.add(one.code)
        if not found:
            yield Padding(Text("nothing found", style="green"), (0, 0, 0, 2))


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


def _finding(one: Finding, *, again: bool) -> RenderableType:
    """Lay out a finding; one of a code that was told before says only what is different."""
    head = Text()
    head.append(one.severity.label.upper(), style=_STYLES[one.severity])
    head.append(f"  {one.code}  ", style="bold")
    head.append(plain(one.what))
    if one.severity is not Severity.FINE:
        head.append(f" ({one.confidence.label})", style="dim")
    lines: list[RenderableType] = [] if again else [Text(plain(one.why))]
    lines += [Text(plain(f"{fact.name}: {fact.value}")) for fact in one.facts]
    if again:
        lines += [Text(command, style="bold") for remedy in one.remedies[:1] for command in remedy.commands]
    for remedy in () if again else one.remedies:
        lines.append(Text(f"- {remedy.text}{' (root)' if remedy.needs_root else ''}"))
        lines += [Padding(Text(command, style="bold"), (0, 0, 0, 4)) for command in remedy.commands]
    if not again:
        lines.append(Text(f"More: tailbite why --explain {one.code}", style="dim"))
    return Padding(Group(head, Padding(Group(*lines), (0, 0, 0, 4))), (1, 0, 0, 2))
