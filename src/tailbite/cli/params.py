"""Kinds of arguments that several commands take; each refuses bad input with one sentence."""

from __future__ import annotations

from typing import Final

import click

from tailbite.core.duration import parse_duration
from tailbite.core.ports import PortRange, PortSet

__all__ = ["DURATION", "PORTS", "RANGE", "WHOLE"]


class _Range(click.ParamType[PortRange]):
    name = "low-high"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> PortRange:
        if isinstance(value, PortRange):
            return value
        try:
            return PortRange.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Ports(click.ParamType[PortSet]):
    name = "ports"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> PortSet:
        if isinstance(value, PortSet):
            return value
        try:
            return PortSet.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float | int):
            return float(value)
        try:
            seconds = parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds <= 0:
            self.fail(f"{value} is no time to wait: give more than 0", param, ctx)
        return seconds


class _Whole(click.ParamType[int]):
    """A positive whole number that may be written as 1e6 or 1_000_000."""

    name = "number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = float(str(value))
        except ValueError:
            number = 0.0
        if not 1 <= number <= 1e15 or number != int(number):
            self.fail(f"{value!r} is no whole number of at least 1", param, ctx)
        return int(number)


RANGE: Final = _Range()
"""LOW-HIGH, a range of ports."""
PORTS: Final = _Ports()
"""Ports and ranges as ip_local_reserved_ports has them: 1-3,8."""
DURATION: Final = _Duration()
"""More than 0 seconds: 100ms, 1s, 10m, 1h30m."""
WHOLE: Final = _Whole()
"""1 or more: 500, 1e6."""
