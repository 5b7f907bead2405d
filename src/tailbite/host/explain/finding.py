"""What is wrong, or worth knowing, about a port or a namespace: findings with their code, and what to do.

A code names a situation for good: ``TB1xx`` is what holds a port (``tailbite why``), ``TB2xx`` what puts a host at
risk (``tailbite doctor``). Each has a page in ``docs/findings``, which ``tailbite why --explain CODE`` prints.
Records only: who makes findings is elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailbite.core.address import Endpoint
    from tailbite.host.see.records import Namespace, Process

__all__ = ["Confidence", "Fact", "Finding", "Remedy", "Severity"]


class Severity(Enum):
    """How bad it is if it is so; the order of the members is the order of a report."""

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


class Confidence(Enum):
    """How sure it is, apart from how bad it would be."""

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


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of evidence: what was looked at, and what it said."""

    name: str
    value: str


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
        severity: how bad it is.
        confidence: how sure it is.
        what: one sentence that names the situation, with its addresses, processes and times.
        why: one or two sentences: how that came to be, and what follows from it.
        remedies: ways out, the best first.
        namespace: where.
        endpoint: which address and port, if it is about one.
        owners: the processes that hold it, where they could be seen.
        facts: the evidence.
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
