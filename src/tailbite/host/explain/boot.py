"""Comparison of what the next boot will make of the port settings with what they are now. Pure."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tailbite.core.ports import HIGHEST_PORT, PortSet, shortened
from tailbite.host.explain.finding import Confidence, Fact, Finding, Remedy, Severity
from tailbite.host.explain.subject import fix_command
from tailbite.host.sysctl.mistakes import lost_lines, mistake_in_range, mistake_in_reserved
from tailbite.host.sysctl.text import OWN_FILE, assignments, value_at_boot
from tailbite.host.sysctl.tree import HOST
from tailbite.host.sysctl.value import EPHEMERAL, PAGE, RESERVED, lower_end_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailbite.host.explain.subject import Subject
    from tailbite.host.sysctl.text import Assignment, BootOrder, ConfigFile
    from tailbite.host.sysctl.tree import Tree
    from tailbite.host.sysctl.value import Setting

__all__ = ["boot_findings"]

_BACKUPS = ("~", ".bak", ".old", ".orig", ".save", ".dpkg-old", ".dpkg-dist", ".rpmsave", ".rpmnew")


def boot_findings(subject: Subject, tree: Tree) -> list[Finding]:
    """Return what is wrong with the sysctl.d files of this host; for the host's own namespace."""
    return [
        *_lost_at_boot(subject, tree),
        *_overridden(subject, tree),
        *_refused(subject, tree),
        *_lost_lines(subject, tree),
        *_not_read(subject, tree),
        *_masked(subject, tree),
        *_left_out_by_systemd(subject, tree),
        *_too_long(subject, tree),
    ]


def _lost_at_boot(subject: Subject, tree: Tree) -> Iterator[Finding]:
    now = subject.seen.reserved
    if not now or tree.not_visible:
        return
    lost = PortSet.of(part for order in tree.orders for part in (now - _reserved_at_boot(order, tree)).ranges)
    if not lost:
        return
    used = {one.endpoints.local.port for one in subject.seen.listeners} | {one.port for one in subject.services}
    yield Finding(
        "TB205",
        Severity.WARNING if any(port in lost for port in used) else Severity.NOTICE,
        Confidence.CERTAIN,
        f"{_ports(lost)} reserved now, but not after the next boot.",
        "No file that is applied at boot sets this, or a later file replaces it. Some programs reserve their ports "
        "each time they start; then no change is needed.",
        (Remedy("reserve them at boot as well", (_command(subject, tree, lost),), needs_root=True),),
        subject.seen.namespace,
        ports=lost,
    )


def _reserved_at_boot(order: BootOrder, tree: Tree) -> PortSet:
    from_files = value_at_boot(order, RESERVED)
    return tree.kernel_ports if from_files is None else from_files


def _command(subject: Subject, tree: Tree, ports: PortSet) -> str:
    """Return the ``tailbite fix`` that edits the files that were read."""
    below = "" if tree.root == HOST else f" --root {shlex.quote(str(tree.root))}"
    return fix_command(subject, f"--reserve {ports}{below}")


def _overridden(subject: Subject, tree: Tree) -> Iterator[Finding]:
    """Yield the ports of assignments that a later one replaced; each file is reported once, for all its readers.

    Nothing is claimed if a file could not be read: it may have the ports.
    """
    if tree.not_visible:
        return
    told = set()
    for order in tree.orders:
        last = value_at_boot(order, RESERVED) or PortSet()
        for file in order.files:
            for item in assignments(file, RESERVED.key):
                ports = RESERVED.parse(item.value) if item.value is not None and not item.is_pattern else None
                lost = (ports or PortSet()) - last
                if not lost or (file.target, item.line) in told:
                    continue
                told.add((file.target, item.line))
                if item not in assignments(file, RESERVED.key, in_turn=order.in_turn):
                    yield _read_by_one(subject, order, item, lost)
                    continue
                yield Finding(
                    "TB206",
                    Severity.WARNING,
                    Confidence.CERTAIN,
                    f"{_ports(lost)} reserved in {file.path} without effect: a file that is applied later wins.",
                    "Files are applied in the order of their names, and the last assignment of a setting wins whole "
                    "(sysctl.d(5)).",
                    (Remedy("merge them", (_command(subject, tree, lost),), needs_root=True),),
                    subject.seen.namespace,
                    facts=(
                        Fact(f"{file.path}, line {item.line + 1}", f"{RESERVED.key} = {item.value}"),
                        Fact("after the boot", f"{RESERVED.key} = {last}"),
                    ),
                )


def _read_by_one(subject: Subject, order: BootOrder, item: Assignment, lost: PortSet) -> Finding:
    """Return the finding about a line that only one of the two programs takes for an assignment."""
    where = f"line {item.line + 1} of {item.file.path}"
    return replace(
        _line_finding(
            subject,
            f"{_ports(lost)} reserved in {where} for one program only: {order.reader} reads that line differently.",
            "systemd-sysctl and `sysctl --system` differ in what ends a line (a carriage return, NUL) and in the "
            "characters around a key.",
            f"write {where} as: {RESERVED.key} = {item.value}, with a line feed at its end",
        ),
        ports=lost,
    )


def _refused(subject: Subject, tree: Tree) -> Iterator[Finding]:
    for file in _files(tree.orders):
        for setting, explain in ((RESERVED, mistake_in_reserved), (EPHEMERAL, mistake_in_range)):
            for item in assignments(file, setting.key):
                if item.value is None or setting.parse(item.value) is not None:
                    continue
                where = f"line {item.line + 1} of {file.path}"
                if setting is EPHEMERAL and (low := lower_end_value(item.value)) is not None:
                    yield _half_a_range(subject, where, low)
                    continue
                mistake = explain(item.value)
                yield _line_finding(
                    subject,
                    f"{where[0].upper()}{where[1:]} sets nothing: the kernel refuses {item.value!r}"
                    f"{' because ' if mistake.reason.startswith('of ') else ': '}{mistake.reason}.",
                    "If it is the last line about this setting, systemd-sysctl sets none of the earlier ones either.",
                    f"write {where} as: {setting.key} = {mistake.corrected}"
                    if mistake.corrected is not None
                    else f"correct {where}",
                )


def _half_a_range(subject: Subject, where: str, low: int) -> Finding:
    high = subject.seen.ephemeral.high if subject.seen.ephemeral is not None else HIGHEST_PORT
    return _line_finding(
        subject,
        f"{where[0].upper()}{where[1:]} sets only the lower end of the ephemeral range, to {low}.",
        "The setting has two numbers. The kernel leaves the upper end as it is, and refuses a lower end above it.",
        f"write {where} as: {EPHEMERAL.key} = {low} {max(low, high)}",
    )


def _lost_lines(subject: Subject, tree: Tree) -> Iterator[Finding]:
    for file in _files(tree.orders):
        for lost in lost_lines(file):
            where = f"line {lost.line + 1} of {file.path}"
            start = f"{where[0].upper()}{where[1:]}"
            corrected = _corrected(lost.setting, lost.value)
            if lost.is_utf16:
                yield _line_finding(
                    subject,
                    f"{start} sets nothing: the file is UTF-16 text.",
                    "At boot the file is read byte by byte, as ASCII or UTF-8, and no line of it has an effect.",
                    f"save {file.path} as UTF-8, without a byte order mark",
                )
            elif lost.key:
                yield _line_finding(
                    subject,
                    f"{start} sets {lost.key!r}, which is not a setting of the kernel; {lost.setting.key} is.",
                    "A name that the kernel does not have is skipped at boot, with a line in the journal at most.",
                    f"write {where} as: {lost.setting.key} = {corrected}"
                    if corrected
                    else f"write {lost.setting.key} in {where}",
                )
            else:
                yield _line_finding(
                    subject,
                    f"{start} names {lost.setting.key} and sets nothing: it is not of the form KEY = VALUE.",
                    "A line of another form is skipped at boot, with a line in the journal at most.",
                    f"write {where} as: {lost.setting.key} = {corrected or 'VALUE'}",
                )


def _corrected(setting: Setting[Any], value: str) -> str:
    """Return a value that the kernel takes, made of one that was meant for it; empty if that is not known."""
    if not value or setting.parse(value) is not None:
        return value
    mistake = mistake_in_reserved(value) if setting is RESERVED else mistake_in_range(value)
    return mistake.corrected or ""


def _not_read(subject: Subject, tree: Tree) -> Iterator[Finding]:
    for file in tree.unread:
        if any(assignments(file, setting.key) for setting in (RESERVED, EPHEMERAL)):
            backup = file.path.endswith(_BACKUPS)
            by_procps = "sysctl --system reads it, systemd does not. " if _is_hidden(file) else ""
            yield replace(
                _line_finding(
                    subject,
                    f"{file.path} sets source ports, but is not read at boot.",
                    f"{by_procps}Only files right in the folder are read whose names end in .conf and do not begin "
                    "with a dot (sysctl.d(5)).",
                    f"rename it to {_readable(file.path)}, or remove it",
                ),
                severity=Severity.NOTICE if backup else Severity.WARNING,
            )


def _masked(subject: Subject, tree: Tree) -> Iterator[Finding]:
    """Yield the settings of files that are not read because another file has their name, if no other file sets
    them."""
    for file in tree.masked if not tree.not_visible else ():
        told = [item for item in assignments(file, RESERVED.key) if item.value and not item.is_pattern]
        ports = PortSet.of(part for item in told for part in (RESERVED.parse(item.value or "") or PortSet()).ranges)
        for order in tree.orders:
            ports -= _reserved_at_boot(order, tree)
        if ports:
            name = file.path.rpartition("/")[2]
            yield replace(
                _line_finding(
                    subject,
                    f"{_ports(ports)} reserved in {file.path} without effect: another {name} takes its place.",
                    "Of two files of one name only the one in the directory of higher rank is read (sysctl.d(5)).",
                    "",
                ),
                severity=Severity.NOTICE,
                remedies=(
                    Remedy(
                        "if they should be reserved",
                        (_command(subject, tree, ports),),
                        needs_root=True,
                    ),
                ),
                ports=ports,
            )


def _left_out_by_systemd(subject: Subject, tree: Tree) -> Iterator[Finding]:
    """Yield the finding about /etc/sysctl.conf, where systemd sets the values at boot and is not led to that file."""
    if not tree.uses_systemd:
        return
    read = {file.target for file in tree.orders[0].files}
    for file in tree.orders[-1].files:
        set_here = [setting.key for setting in (RESERVED, EPHEMERAL) if assignments(file, setting.key)]
        if set_here and file.target not in read:
            yield _line_finding(
                subject,
                f"{file.path} sets {' and '.join(set_here)}, but systemd does not read it at boot.",
                "systemd-sysctl reads the directories of sysctl.d(5) only. Some distributions link the file into "
                "/etc/sysctl.d; this one does not.",
                f"move the lines to {OWN_FILE}, or link the file: ln -s ../sysctl.conf /etc/sysctl.d/99-sysctl.conf",
            )


def _is_hidden(file: ConfigFile) -> bool:
    return file.name.startswith(".") and file.name.endswith(".conf")


def _readable(path: str) -> str:
    name = path.rpartition("/")[2].lstrip(".").removesuffix(".conf")
    return f"/etc/sysctl.d/{name}.conf"


def _line_finding(subject: Subject, what: str, why: str, remedy: str) -> Finding:
    return Finding(
        "TB206", Severity.WARNING, Confidence.CERTAIN, what, why, (Remedy(remedy),), subject.seen.namespace
    )


def _too_long(subject: Subject, tree: Tree) -> Iterator[Finding]:
    for file in _files(tree.orders):
        for item in assignments(file, RESERVED.key):
            if item.value is not None and len(item.value) >= PAGE and RESERVED.parse(item.value) is not None:
                yield Finding(
                    "TB206",
                    Severity.NOTICE,
                    Confidence.LIKELY,
                    f"`sysctl --system` sets only the beginning of line {item.line + 1} of {file.path}: it is longer "
                    f"than {PAGE} bytes.",
                    "The kernel takes a page per write. systemd-sysctl writes the rest as well; sysctl does not.",
                    (Remedy("reserve ranges instead of single ports"),),
                    subject.seen.namespace,
                )


def _files(orders: tuple[BootOrder, ...]) -> list[ConfigFile]:
    return list({file.target: file for order in orders for file in order.files}.values())


def _ports(ports: PortSet) -> str:
    return f"Port {ports} is" if len(ports) == 1 else f"Ports {shortened(str(ports))} are"
