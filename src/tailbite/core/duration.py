"""Durations as people write and read them: ``100ms``, ``1s``, ``10m``, ``2h``, ``3d``."""

from __future__ import annotations

import math
import re

__all__ = ["checked_seconds", "parse_duration", "spell_duration"]

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z]*)", re.ASCII)
_LADDER = (
    (365.25 * 86400, "year", "years"),
    (86400.0, "day", "days"),
    (3600.0, "hour", "hours"),
    (60.0, "minute", "minutes"),
    (1.0, "s", "s"),
    (1e-3, "ms", "ms"),
    (1e-6, "us", "us"),
)


def checked_seconds(name: str, value: object) -> float:
    """Return ``value`` if it is a number; ``name`` is the argument it was given as.

    Raises:
        TypeError: it is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    return value


def parse_duration(text: str) -> float:
    """Return the seconds of ``"100ms"``, ``"1s"``, ``"1h30m"``; a bare number is in seconds.

    Raises:
        ValueError: the text is not a duration, or has another unit than us, ms, s, m, h, d, w.
    """
    wanted = text.strip().lower()
    parts = _PART.findall(wanted)
    if not parts or _PART.sub("", wanted).strip() or any(unit and unit not in _UNITS for _, unit in parts):
        raise ValueError(f"{text!r} is not a valid duration: write it as 100ms, 1s, 10m, 2h or 1h30m")
    if len(parts) > 1 and not all(unit for _, unit in parts):
        raise ValueError(f"{text!r} is not a valid duration: each of its parts needs a unit, as in 1h30m")
    return sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)


def spell_duration(seconds: float) -> str:
    """Write seconds for people, with two significant digits: ``"3.9 hours"``, ``"52 minutes"``, ``"130 ms"``."""
    if math.isinf(seconds):
        return "never"
    if seconds <= 0:
        return "0 s"
    # 0.995 and up is shown as 1.0 of this unit, not as 60 of the one below.
    size, one, many = next((step for step in _LADDER if seconds / step[0] >= 0.995), _LADDER[-1])
    shown = _two_digits(seconds / size)
    return f"{shown} {one if shown == '1' else many}"


def _two_digits(number: float) -> str:
    if number >= 9.95:
        digits = max(0, math.floor(math.log10(number)) - 1)
        return f"{round(number / 10**digits) * 10**digits:,}".replace(",", " ")
    return f"{number:.1f}".removesuffix(".0")
