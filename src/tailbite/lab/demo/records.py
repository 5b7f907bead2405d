"""Settings, results and narrator of the demonstration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tailbite.core.ports import PortRange

__all__ = ["DemoAct", "DemoSettings", "Measurement", "Narrator"]


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """Settings of one demonstration.

    Attributes:
        port: the dead port.
        ephemeral: the ephemeral range to begin with; the machine's own in a natural run.
        wait: wait for the end of the TIME-WAIT that compare-and-close leaves, and time it.
        most_attempts: number of attempts after which a natural run stops.
    """

    port: int
    ephemeral: PortRange
    wait: bool = False
    most_attempts: int = 400_000


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured value and its name in the JSON output."""

    name: str
    value: int | float | str | bool


@dataclass(frozen=True, slots=True)
class DemoAct:
    """The result of one act.

    Attributes:
        number: 1 to 6.
        title: subject of the act.
        claim: expected result in a few words.
        measured: actual result in a few words.
        shown: True if the actual result is the expected one.
        measurements: the values behind ``measured``.
    """

    number: int
    title: str
    claim: str
    measured: str
    shown: bool
    measurements: tuple[Measurement, ...]


class Narrator(Protocol):
    """Presentation of the acts while they happen."""

    def begin_act(self, number: int, title: str) -> None:
        """Announce an act."""

    def explain(self, text: str) -> None:
        """Explain in prose."""

    def show_line(self, text: str) -> None:
        """Show a line of a terminal: a command, or output of a program."""

    def count_attempts(self, attempts: int) -> None:
        """Update the number of attempts made so far."""
