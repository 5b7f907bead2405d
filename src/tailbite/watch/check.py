"""One check of a host, in the words and exit statuses of other monitoring systems. Pure.

==========  ==================================================  ========  =======  ========  =============
format      read by                                             fine      found    unknown   wrong usage
==========  ==================================================  ========  =======  ========  =============
text        people, scripts                                     0         1        3         2
nagios      Nagios, Icinga, Checkmk, NRPE                       0         1 or 2   3         3
npd         Kubernetes' node-problem-detector                   0         1        2         2
zabbix      UserParameter of the Zabbix agent                   0         0        0         2
telegraf    Telegraf's inputs.exec, data_format "influx"        0         0        0         2
prometheus  a textfile or a pushgateway                         0         0        0         2
==========  ==================================================  ========  =======  ========  =============

Nagios' 2 (CRITICAL) is a self-connect that is held open; 1 (WARNING) is what one left behind in TIME-WAIT. Telegraf
and Zabbix drop the output of a command that fails, so for them the status is 0 when something is found.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from tailbite.kernel.sock_diag import TcpState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.core.address import Endpoint
    from tailbite.host.see.records import NotVisible
    from tailbite.watch.inspector import InspectionRound

__all__ = ["CheckFormat", "CheckResult", "Item", "check_result", "exit_status", "render", "unknown_line"]

_NPD_LENGTH: Final = 80  # max_output_length in node-problem-detector's own configurations
_SHOWN: Final = 5


class CheckFormat(Enum):
    """The reader of the output."""

    TEXT = "text"
    NAGIOS = "nagios"
    NPD = "npd"
    ZABBIX = "zabbix"
    TELEGRAF = "telegraf"
    PROMETHEUS = "prometheus"


class Item(Enum):
    """The one value that Zabbix asks for."""

    SELF_CONNECTS = "self-connects"
    TIME_WAITS = "time-waits"
    EXPOSED_LISTENERS = "exposed-listeners"
    NOT_VISIBLE = "not-visible"
    DISCOVERY = "discovery"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The findings of a check.

    Attributes:
        held: self-connects that are open: endpoint, and where.
        time_waits: endpoints that closed ones left in TIME-WAIT.
        exposed: listening ports inside the ephemeral range that are not reserved.
        namespaces: how many network namespaces were inspected, or have no TCP socket.
        not_visible: what could not be inspected.
    """

    held: tuple[tuple[Endpoint, str], ...]
    time_waits: tuple[tuple[Endpoint, str], ...]
    exposed: tuple[int, ...]
    namespaces: int
    not_visible: tuple[NotVisible, ...]

    @property
    def sentence(self) -> str:
        """The result in one line."""
        if self.held:
            ends = ", ".join(f"{end}{place}" for end, place in self.held[:_SHOWN])
            more = f" and {len(self.held) - _SHOWN} more" if len(self.held) > _SHOWN else ""
            return f"{_count(len(self.held), 'self-connect')}: {ends}{more}"
        if self.time_waits:
            ends = ", ".join(f"{end}{place}" for end, place in self.time_waits[:_SHOWN])
            return f"{_count(len(self.time_waits), 'closed self-connect')} in TIME-WAIT: {ends}"
        if self.not_visible:
            return f"no self-connect, but not everything was visible: {self.not_visible[0]}"
        return "no self-connect"

    @property
    def counts(self) -> dict[Item, int]:
        """The numbers."""
        return {
            Item.SELF_CONNECTS: len(self.held),
            Item.TIME_WAITS: len(self.time_waits),
            Item.EXPOSED_LISTENERS: len(self.exposed),
            Item.NOT_VISIBLE: len(self.not_visible),
        }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def check_result(found: InspectionRound, late: NotVisible | None = None) -> CheckResult:
    """Sum up a round of inspections; ``late`` stands for namespaces that were left out for want of time."""
    held: list[tuple[Endpoint, str]] = []
    waiting: list[tuple[Endpoint, str]] = []
    for report in found.reports.values():
        place = "" if report.namespace.is_own else f" in {report.namespace}"
        for one in report.self_connects:
            (waiting if one.state is TcpState.TIME_WAIT else held).append((one.endpoints.local, place))
    exposed = tuple(sorted(port for report in found.reports.values() for port in report.exposed))
    unseen = found.not_visible + ((late,) if late is not None else ())
    return CheckResult(tuple(held), tuple(waiting), exposed, len(found.reports), unseen)


def exit_status(result: CheckResult, form: CheckFormat) -> int:
    """Return the exit status that the reader expects."""
    if form in (CheckFormat.ZABBIX, CheckFormat.TELEGRAF, CheckFormat.PROMETHEUS):
        return 0
    if result.held:
        return 2 if form is CheckFormat.NAGIOS else 1
    if result.time_waits:
        return 1
    if result.not_visible:
        return _unknown_status(form)
    return 0


def _unknown_status(form: CheckFormat) -> int:
    return 2 if form is CheckFormat.NPD else 3


def unknown_line(form: CheckFormat, reason: str) -> tuple[str, int] | None:
    """Return line and status of a check that could not be made; None where exit status 2 says so already."""
    if form is CheckFormat.NAGIOS:
        return f"TAILBITE UNKNOWN - {_plain(reason)}", _unknown_status(form)
    if form is CheckFormat.NPD:
        return _short(_plain(reason)), _unknown_status(form)
    return None


def render(result: CheckResult, form: CheckFormat, item: Item = Item.SELF_CONNECTS) -> str:
    """Return the output, without its last newline.

    Raises:
        ValueError: the format is that of Prometheus, whose metrics :mod:`tailbite.watch.metrics` makes.
    """
    return _RENDERERS[form](result, item)


def _text(result: CheckResult, item: Item) -> str:
    return f"{result.sentence[0].upper()}{result.sentence[1:]}."


def _nagios(result: CheckResult, item: Item) -> str:
    word = {0: "OK", 1: "WARNING", 2: "CRITICAL", 3: "UNKNOWN"}[exit_status(result, CheckFormat.NAGIOS)]
    # label=value;warning;critical;minimum, by the plugin API: a range that is left raises the alarm.
    limits = {Item.SELF_CONNECTS: ";;0;0", Item.TIME_WAITS: ";0;;0"}
    values = " ".join(
        f"{one.value.replace('-', '_')}={number}{limits.get(one, ';;;0')}" for one, number in result.counts.items()
    )
    return f"TAILBITE {word} - {_plain(result.sentence)} | {values}"


def _npd(result: CheckResult, item: Item) -> str:
    return _short(_plain(result.sentence))


def _zabbix(result: CheckResult, item: Item) -> str:
    if item is not Item.DISCOVERY:
        return str(result.counts[item])
    ports = sorted({end.port for end, _ in (*result.held, *result.time_waits)})
    return json.dumps([{"{#PORT}": str(port)} for port in ports])


def _telegraf(result: CheckResult, item: Item) -> str:
    values = ",".join(f"{one.value.replace('-', '_')}={number}i" for one, number in result.counts.items())
    return f"tailbite {values},namespaces={result.namespaces}i {time.time_ns()}"


def _prometheus(result: CheckResult, item: Item) -> str:
    raise ValueError("the metrics of Prometheus are made elsewhere")


def _plain(text: str) -> str:
    """Return text that cannot be taken for performance data (a bar), nor for a second line."""
    return "".join(char if char.isprintable() and char != "|" else " " for char in text)


def _short(text: str) -> str:
    while len(text.encode()) > _NPD_LENGTH:
        text = text[:-1]
    return text


_RENDERERS: Final[dict[CheckFormat, Callable[[CheckResult, Item], str]]] = {
    CheckFormat.TEXT: _text,
    CheckFormat.NAGIOS: _nagios,
    CheckFormat.NPD: _npd,
    CheckFormat.ZABBIX: _zabbix,
    CheckFormat.TELEGRAF: _telegraf,
    CheckFormat.PROMETHEUS: _prometheus,
}
