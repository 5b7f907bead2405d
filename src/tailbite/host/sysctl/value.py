"""Texts that the kernel takes for the two port settings, and their meaning. Pure.

A file in /etc/sysctl.d may say anything; a value that the kernel refuses (EINVAL) has no effect. The kernel is
stricter than a person (a blank behind a comma, or a comment behind the value, is an error) and stranger: its numbers
are those of C, so ``010`` is eight (proc_get_long in kernel/sysctl.c). tests/host/sysctl/test_value.py asks it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from tailbite.core.ports import HIGHEST_PORT, PortRange, PortSet

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "EPHEMERAL",
    "LOWEST_EPHEMERAL",
    "PAGE",
    "RESERVED",
    "Setting",
    "lower_end_value",
    "range_value",
    "reserved_value",
]

T = TypeVar("T")

LOWEST_EPHEMERAL: Final = 1024
"""The kernel refuses a range that begins below ``ip_unprivileged_port_start``, which is this unless changed."""

PAGE: Final = 4096
"""Bytes of a list, with the end of the line, that the kernel takes in one write(2) (proc_do_large_bitmap): a page,
which is larger on some machines. sysctl(8) of procps writes once, so of a longer list it sets the beginning only."""

_NUMBER = "0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*"
_LIST = re.compile(rf"(?:(?:{_NUMBER})(?:-(?:{_NUMBER}))?,)*(?:(?:{_NUMBER})(?:-(?:{_NUMBER}))?)?")
_PAIR = re.compile(rf"\s*({_NUMBER})\s+({_NUMBER})(?:\s.*)?", re.DOTALL | re.ASCII)


def reserved_value(text: str) -> PortSet | None:
    """Return the ports of ``ip_local_reserved_ports = text``, or None if the kernel refuses the text."""
    if _LIST.fullmatch(text) is None:
        return None
    try:
        return PortSet.of(_item(part) for part in text.split(",") if part)
    except ValueError:
        return None


def range_value(text: str) -> PortRange | None:
    """Return the range of ``ip_local_port_range = text``, or None if the kernel refuses the text.

    One number alone counts as refused, see :func:`lower_end_value`.
    """
    match = _PAIR.fullmatch(text)
    if match is None:
        return None
    low, high = (_number(part) for part in match.groups())
    return PortRange(low, high) if LOWEST_EPHEMERAL <= low <= high <= HIGHEST_PORT else None


def lower_end_value(text: str) -> int | None:
    """Return the port of ``ip_local_port_range = text`` with one number, which sets the lower end alone, or None.

    The kernel refuses it if the upper end, which it leaves, is below.
    """
    match = re.fullmatch(rf"\s*({_NUMBER})\s*", text, re.ASCII)
    low = _number(match[1]) if match is not None else 0
    return low if LOWEST_EPHEMERAL <= low <= HIGHEST_PORT else None


def _item(text: str) -> PortRange:
    low, _, high = text.partition("-")
    return PortRange(_number(low), _number(high or low))


def _number(text: str) -> int:
    if text[:2].lower() == "0x":
        return int(text, 16)
    return int(text, 8 if text.startswith("0") else 10)


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """A setting with its language.

    Attributes:
        key: as sysctl(8) has it, with dots.
        parse: text -> what the kernel makes of it, or None if it refuses the text.
        spell: the opposite.
    """

    key: str
    parse: Callable[[str], T | None]
    spell: Callable[[T], str]

    @property
    def name(self) -> str:
        """The file's name below /proc/sys/net/ipv4."""
        return self.key.rpartition(".")[2]


RESERVED: Final = Setting("net.ipv4.ip_local_reserved_ports", reserved_value, str)
EPHEMERAL: Final = Setting("net.ipv4.ip_local_port_range", range_value, lambda ports: f"{ports.low} {ports.high}")
