"""Findings that the reader has accepted: ``--ignore`` and the baseline file of ``tailbite doctor``. Pure.

A baseline file holds codes, namespaces and ports, and for findings without ports their sentence. If a finding gets
another port, it is reported with that port only.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.core.ports import PortSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tailbite.host.explain.finding import Finding
    from tailbite.host.see.records import Namespace

__all__ = ["NOTHING_KNOWN", "KnownFinding", "KnownFindings", "baseline_of", "parse_baseline", "parse_ignored"]

_SCHEMA = "tailbite.baseline/1"
_CODE = re.compile(r"TB\d{3}")
_SAME = {"TB201": "TB101", "TB202": "TB102", "TB203": "TB109"}  # codes of tailbite 0.1


@dataclass(frozen=True, slots=True)
class KnownFinding:
    """One accepted finding.

    Attributes:
        code: its code.
        namespace: the namespace it is about; empty for any.
        ports: its ports; empty for a finding that has none.
        what: its sentence, for a finding without ports; empty for all of the code.
    """

    code: str
    namespace: str = ""
    ports: PortSet = PortSet()  # noqa: RUF009 - a frozen value
    what: str = ""


@dataclass(frozen=True, slots=True)
class KnownFindings:
    """All that is accepted.

    Attributes:
        items: the findings.
    """

    items: tuple[KnownFinding, ...] = ()

    def ports(self, code: str, namespace: Namespace) -> frozenset[int]:
        """Return the ports that are accepted for a code in a namespace."""
        place = _place(namespace)
        return frozenset(
            port
            for item in self.items
            if item.code == code and item.namespace in ("", place)
            for port in (item.ports or (range(65536) if not item.what else ()))
        )

    def covers(self, finding: Finding) -> bool:
        """Tell whether a finding is accepted as a whole."""
        place = _place(finding.namespace)
        mine = [item for item in self.items if item.code == finding.code and item.namespace in ("", place)]
        if any(not item.ports and item.what in ("", finding.what) for item in mine):
            return True
        known = frozenset(port for item in mine for port in item.ports)
        return bool(finding.ports) and known.issuperset(finding.ports)


NOTHING_KNOWN = KnownFindings()


def parse_ignored(text: str, parse: Callable[[str], PortSet] = PortSet.parse) -> tuple[KnownFinding, ...]:
    """Read ``TB204``, ``TB204:40000-40010`` or several of them with commas between the codes.

    Args:
        text: the text.
        parse: the reader of the ports.

    Raises:
        ValueError: the text is not of that form; the message says which part is wrong.
    """
    found: list[KnownFinding] = []
    for part in re.split(r",(?=\s*TB)", text.strip(), flags=re.IGNORECASE):
        code, colon, ports = part.strip().partition(":")
        code = code.upper()
        if _CODE.fullmatch(code) is None:
            raise ValueError(f"{part.strip()!r} is not a code such as TB204, or TB204:40000-40010")
        if colon and not ports.strip():
            raise ValueError(f"{part.strip()!r} has no ports behind the colon")
        found.append(KnownFinding(_SAME.get(code, code), ports=parse(ports) if colon else PortSet()))
    return tuple(found)


def parse_baseline(text: str) -> tuple[KnownFinding, ...]:
    """Read a baseline file.

    Raises:
        ValueError: the text is not a baseline of this version.
    """
    try:
        data = json.loads(text)
        if data["schema"] != _SCHEMA:
            raise ValueError(f"its schema is {data['schema']!r}, not {_SCHEMA!r}")
        return tuple(
            KnownFinding(
                _SAME.get(str(item["code"]), str(item["code"])),
                str(item["namespace"]),
                PortSet.parse(item.get("ports", "")),
                str(item.get("what", "")),
            )
            for item in data["accepted"]
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
        raise ValueError("it is not a baseline: --write-baseline makes one") from None


def baseline_of(findings: Iterable[Finding]) -> str:
    """Return the text of a baseline file that accepts these findings."""
    accepted = [
        {
            "code": one.code,
            "namespace": _place(one.namespace),
            **({"ports": str(one.ports)} if one.ports else {"what": one.what}),
        }
        for one in findings
    ]
    return json.dumps({"schema": _SCHEMA, "accepted": accepted}, indent=1) + "\n"


def _place(namespace: Namespace) -> str:
    return "own" if namespace.is_own else f"{namespace.kind.label}:{namespace.name}"
