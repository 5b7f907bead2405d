"""Findings about a port or a namespace: a code, words, evidence as data, and remedies.

A code names one situation, whichever command reports it. ``TB1xx`` is about one port, ``TB2xx`` about a host.
Each has a page in ``docs/findings``, which ``tailbite why --explain CODE`` prints. Records only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from tailbite.core.ports import PortSet

if TYPE_CHECKING:
    from tailbite.core.address import Endpoint
    from tailbite.host.see.records import Namespace, Process

_NO_PORTS = PortSet()

__all__ = ["Confidence", "Fact", "Finding", "Remedy", "Severity"]

_PAGES = "https://github.com/tailbite/tailbite/blob/main/docs/findings"


class Severity(Enum):
    """The harm if the finding is true; the order of the members is the order of a report."""

    CRITICAL = "critical"
    """A service is kept from working now."""
    WARNING = "warning"
    """It can happen, or it is over in a minute."""
    NOTICE = "notice"
    """Worth knowing; nothing is wrong with it alone."""
    FINE = "fine"
    """As it should be."""

    @property
    def label(self) -> str:
        """The word in tables and in JSON."""
        return self.value

    @property
    def is_bad(self) -> bool:
        """True for what makes a command exit with status 1."""
        return self in (Severity.CRITICAL, Severity.WARNING)


class Confidence(Enum):
    """The certainty of a finding, apart from the harm."""

    CERTAIN = "certain"
    """Read from the kernel's own tables."""
    LIKELY = "likely"
    """Follows from what was read, unless something unseen forbids it."""
    POSSIBLE = "possible"
    """Part of it could not be seen."""

    @property
    def label(self) -> str:
        """The word in tables and in JSON."""
        return self.value


_SINGULAR = {
    "bytes": "byte",
    "ports": "port",
    "sockets": "socket",
    "connections": "connection",
    "processes": "process",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of evidence.

    Attributes:
        name: what was read or worked out.
        value: the value as data; None if it is not known, or never happens.
        unit: the unit of a number: ``s``, ``bytes``, ``ports``, ``sockets``, ``connections``,
            ``processes``; empty for others.
        text: the value for people; empty to print value and unit.
    """

    name: str
    value: str | float | bool | None
    unit: str = ""
    text: str = ""

    @property
    def words(self) -> str:
        """The value for people."""
        if self.text:
            return self.text
        if isinstance(self.value, bool):
            return "yes" if self.value else "no"
        value = "unknown" if self.value is None else str(self.value)
        unit = _SINGULAR.get(self.unit, self.unit) if self.value == 1 else self.unit
        return f"{value} {unit}" if unit else value


@dataclass(frozen=True, slots=True)
class Remedy:
    """One way out.

    Attributes:
        text: one sentence in the imperative.
        commands: exactly what to type, in this order; empty where only a program's author can help.
        needs_root: True if the commands need root or a capability.
    """

    text: str
    commands: tuple[str, ...] = ()
    needs_root: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One situation that was recognised.

    Attributes:
        code: ``TB`` and three digits.
        severity: the harm.
        confidence: how sure it is.
        what: one sentence that names the situation, with its addresses, processes and times.
        why: one or two sentences: how that came to be, and what follows from it.
        remedies: ways out, the best first.
        namespace: the network namespace.
        endpoint: the address and port, if it is about one.
        owners: the processes that hold it, where they could be seen.
        facts: the evidence.
        ports: the ports it is about.
        url: the page of the code.
    """

    code: str
    severity: Severity
    confidence: Confidence
    what: str
    why: str
    remedies: tuple[Remedy, ...]
    namespace: Namespace
    endpoint: Endpoint | None = None
    owners: tuple[Process, ...] = ()
    facts: tuple[Fact, ...] = ()
    ports: PortSet = _NO_PORTS
    url: str = field(init=False)

    def __post_init__(self) -> None:
        """Fill in the address of the page."""
        object.__setattr__(self, "url", f"{_PAGES}/{self.code}.md")
