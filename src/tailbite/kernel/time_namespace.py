"""The offset of CLOCK_MONOTONIC in a time namespace (time_namespaces(7), Linux 5.6).

Programs in the kernel (eBPF) read the clock of the initial namespace, this process the one of its own.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

__all__ = ["monotonic_offset", "parse_offset"]

_FILE = Path("/proc/self/timens_offsets")


@cache
def monotonic_offset() -> float:
    """Return the seconds by which this process's CLOCK_MONOTONIC is ahead of the kernel's; 0 without namespaces."""
    try:
        return parse_offset(_FILE.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return 0.0


def parse_offset(text: str) -> float:
    """Return the offset of the monotonic clock in the text of /proc/PID/timens_offsets."""
    found = re.search(r"^monotonic\s+(-?\d+)\s+(\d+)$", text, re.MULTILINE)
    return int(found[1]) + int(found[2]) / 1e9 if found else 0.0
