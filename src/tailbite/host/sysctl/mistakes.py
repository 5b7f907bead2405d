"""Mistakes in sysctl.d(5) lines about the port settings: the wrong part, and the line that was meant. Pure.

The kernel refuses a whole value for one wrong character, and says nothing more than EINVAL.
"""

from __future__ import annotations

import codecs
import difflib
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from tailbite.core.ports import HIGHEST_PORT, PortRange, PortSet
from tailbite.host.sysctl.text import assignments
from tailbite.host.sysctl.value import EPHEMERAL, LOWEST_EPHEMERAL, RESERVED, range_value, reserved_value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from tailbite.host.sysctl.text import ConfigFile
    from tailbite.host.sysctl.value import Setting

__all__ = [
    "LostLine",
    "Mistake",
    "lost_lines",
    "mistake_in_range",
    "mistake_in_reserved",
    "ports_meant",
]

_LINE_KEY = re.compile(r"\s*-?([^\s=#;-][^\s=]*)\s*=(.*)", re.ASCII | re.DOTALL)
_BETWEEN = "(?:\\s*(?:[-:~\u2010-\u2015\u2212]|\\.\\.+|\\bto\\b)\\s*)"  # hyphens and dashes of all kinds
_PORT = r"(?<!\w)(?<!\d\.)(0[xX][0-9a-fA-F]+|[0-9]+)(?!\w|\.\d)"  # neither 55_000 nor 55.000 is two ports
_PART = re.compile(rf"{_PORT}(?:{_BETWEEN}{_PORT})?", re.ASCII)
_OTHER_SETTINGS = frozenset({"ip_local_port_step_width", "ip_unprivileged_port_start"})
_ALIKE = 0.85
_NAMES = {
    '"': "the quotation mark",
    "'": "the quotation mark",
    "#": "the comment",
    ";": "the comment",
    " ": "the blank",
    "\t": "the tab",
    "\\": "the backslash",
    ":": "the colon",
    "\u2013": "the dash",
    "\u2014": "the dash",
    "\u00a0": "the no-break space",
}
_ADVICE = {
    '"': "values have no quotation marks",
    "'": "values have no quotation marks",
    "#": "a comment needs a line of its own",
    ";": "a comment needs a line of its own",
    " ": "ports are separated by commas alone",
    "\t": "ports are separated by commas alone",
    "\\": "a value cannot be continued on the next line",
    ":": "a range is written as LOW-HIGH",
    "\u2013": "a range is written as LOW-HIGH, with a hyphen",
    "\u2014": "a range is written as LOW-HIGH, with a hyphen",
}
_ECHO = re.compile(r"\becho\s+(?P<value>[^>]*?)\s*(?:>|\|)")  # a line of a shell script
_COMMENT = re.compile(r"#|(?<![0-9]);|;(?!\s*[0-9])")  # a semicolon between two numbers separates them
_LIST_ADVICE = "a list has digits, commas and hyphens only"
_RANGE_ADVICE = "the two ports are separated by a blank"


@dataclass(frozen=True, slots=True)
class Mistake:
    """The reason why the kernel refuses a value.

    Attributes:
        reason: the wrong part and the rule, as a clause.
        corrected: the value that was meant; None if that is not known.
    """

    reason: str
    corrected: str | None


def ports_meant(value: str) -> PortSet:
    """Return the ports that a value of ``ip_local_reserved_ports`` was meant to have, whatever surrounds them."""
    text = _COMMENT.split(value, maxsplit=1)[0]
    found: list[PortRange] = []
    for match in _PART.finditer(text):
        numbers = [int(number, 16 if number[:2].lower() == "0x" else 10) for number in match.groups() if number]
        low, high = min(numbers), max(numbers)
        if low >= 1 and high <= HIGHEST_PORT:
            found.append(PortRange(low, high))
    return PortSet.of(found)


def mistake_in_reserved(value: str) -> Mistake:
    """Explain why the kernel refuses a value of ``ip_local_reserved_ports``; it must be one that is refused."""
    meant = ports_meant(value)
    corrected = str(meant) if meant else None
    if wrong := re.search(r"[^0-9a-fA-FxX,-]", value):
        return Mistake(_character(value, wrong.start()), corrected)
    for part in value.split(","):
        if part and reserved_value(part) is None:
            return Mistake(_number(part), corrected)
    return Mistake("it is not a list of ports", corrected)


def mistake_in_range(value: str) -> Mistake:
    """Explain why the kernel refuses a value of ``ip_local_port_range``; it must be one that is refused."""
    numbers = [int(number) for number in re.findall(r"[0-9]+", _COMMENT.split(value, maxsplit=1)[0])]
    meant = f"{min(numbers)} {max(numbers)}" if len(numbers) == 2 else None
    corrected = meant if meant is not None and range_value(meant) is not None else None
    if (wrong := re.search(r"[\"'#;\\]", value)) and not _separates(value, wrong.start()):
        return Mistake(_character(value, wrong.start()), corrected)
    if negative := re.search(r"(?<!\S)-[0-9]+", value):
        return Mistake(f"{negative[0]} is not a port", None)
    if wrong := re.search(r"[^0-9a-fA-FxX \t\n\v\f\r]", value):
        char = value[wrong.start()]
        name = "the semicolon" if char == ";" else _NAMES.get(char, "the character")
        return Mistake(f"of {name} {char!r}: {_RANGE_ADVICE}", corrected)
    if len(numbers) != 2:
        return Mistake(f"it has {len(numbers)} number{'' if len(numbers) == 1 else 's'} instead of two", None)
    low, high = numbers
    if low > high:
        return Mistake(f"{low} is above {high}: the lower port comes first", corrected)
    if low < LOWEST_EPHEMERAL:
        return Mistake(f"{low} is below {LOWEST_EPHEMERAL} (ip_unprivileged_port_start)", None)
    return Mistake(f"{high} is not a port: the highest is {HIGHEST_PORT}", None)


def _character(value: str, place: int) -> str:
    char = value[place]
    name, advice = _NAMES.get(char, "the character"), _ADVICE.get(char, _LIST_ADVICE)
    if _separates(value, place):
        name, advice = "the semicolon", _ADVICE[" "]
    before = f" behind {value[:place]!r}" if place else " at its beginning"
    return f"of {name} {char!r}{before}: {advice}"


def _separates(value: str, place: int) -> bool:
    """Tell whether there is a semicolon between two numbers, which does not begin a comment."""
    return value[place] == ";" and _COMMENT.match(value, place) is None


def _number(part: str) -> str:
    low, hyphen, high = part.partition("-")
    if hyphen and low.isdigit() and high.isdigit() and int(low) > int(high):
        return f"{part} begins with the higher port"
    for number in (low, high):
        if number.isdigit() and int(number) > HIGHEST_PORT:
            return f"{number} is not a port: the highest is {HIGHEST_PORT}"
    return f"{part!r} is not a port or a range LOW-HIGH"


@dataclass(frozen=True, slots=True)
class LostLine:
    """A line that names one of the two settings and sets nothing.

    Attributes:
        line: its number, from 0.
        setting: the setting that was meant.
        key: the name that it assigns instead; empty if it assigns nothing at all.
        value: what it was meant to assign; empty if that is not known.
        is_utf16: True if the reason is that the whole file is UTF-16 text.
    """

    line: int
    setting: Setting[Any]
    key: str
    value: str
    is_utf16: bool = False


def lost_lines(file: ConfigFile) -> Iterator[LostLine]:
    """Yield the lines that assign a name which is nearly that of a setting, or name a setting and assign nothing."""
    settings: dict[str, Setting[Any]] = {setting.name: setting for setting in (RESERVED, EPHEMERAL)}
    if (text := _utf16_text(file.text)) is not None:
        for setting in settings.values():
            found = assignments(replace(file, text=text), setting.key)
            yield from (LostLine(one.line, setting, "", one.value, is_utf16=True) for one in found if one.value)
        return
    right = {item.line for setting in settings.values() for item in assignments(file, setting.key)}
    for number, line in enumerate(file.text.split("\n")):
        if number in right or line.lstrip().startswith(("#", ";")):
            continue
        match = _LINE_KEY.fullmatch(line)
        if match is None:
            yield from _unassigned(number, line, settings)
        elif not any(char in match[1] for char in "*?[") and (meant := _nearest(match[1], tuple(settings))):
            yield LostLine(number, settings[meant], match[1], match[2].strip())


@lru_cache(maxsize=1024)
def _nearest(key: str, settings: tuple[str, ...]) -> str | None:
    name = re.split(r"[./]", key)[-1]
    close = difflib.get_close_matches(name.lower(), settings, 1, _ALIKE)
    return close[0] if close and name not in _OTHER_SETTINGS else None


def _unassigned(number: int, line: str, settings: dict[str, Setting[Any]]) -> Iterator[LostLine]:
    for name, setting in settings.items():
        before, found, behind = line.partition(name)
        if found and not behind[:1].isalnum() and not before.strip().startswith("-"):
            shell = _ECHO.search(before)
            value = shell["value"].strip("\"'") if shell else behind.lstrip("+=: \t")
            yield LostLine(number, setting, "", value.strip())


def _utf16_text(text: str) -> str | None:
    """Return the text of a file that is UTF-16, as some editors of Windows write it; None if the file is not."""
    raw = text.encode("utf-8", "surrogateescape")
    mark = raw[:2]
    if mark not in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return None
    return raw.decode("utf-16", "replace")
