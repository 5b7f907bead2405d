"""Paired timing: two things in turn, block by block, so that a machine's changing speed hits both alike.

Every benchmark prints one JSON object as its last line: its figures, and the facts of the machine.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Ratio", "compare", "report"]


@dataclass(frozen=True)
class Ratio:
    """What a guarded thing costs against the plain one.

    Attributes:
        name: what was compared.
        plain_us: median microseconds of the plain one.
        guarded_us: median microseconds of the guarded one.
        ratio: median of the ratios of neighbouring blocks.
        low: the first quartile of those ratios.
        high: the third quartile.
        limit: the ratio the project promises; None for a figure that is only reported.
    """

    name: str
    plain_us: float
    guarded_us: float
    ratio: float
    low: float
    high: float
    limit: float | None

    @property
    def is_met(self) -> bool:
        """True if the promise holds."""
        return self.limit is None or self.ratio <= self.limit


def compare(
    name: str,
    plain: Callable[[], float],
    guarded: Callable[[], float],
    *,
    blocks: int = 60,
    limit: float | None = None,
) -> Ratio:
    """Run both ``blocks`` times in turn; each call returns the seconds that one operation took, on average."""
    plain(), guarded()
    pairs = []
    for number in range(blocks):
        first, second = (plain, guarded) if number % 2 == 0 else (guarded, plain)
        one, other = first(), second()
        pairs.append((one, other) if number % 2 == 0 else (other, one))
    ratios = [guarded_s / plain_s for plain_s, guarded_s in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Ratio(
        name=name,
        plain_us=round(statistics.median(pair[0] for pair in pairs) * 1e6, 2),
        guarded_us=round(statistics.median(pair[1] for pair in pairs) * 1e6, 2),
        ratio=round(middle, 3),
        low=round(low, 3),
        high=round(high, 3),
        limit=limit,
    )


def report(title: str, ratios: list[Ratio], **more: Any) -> None:
    """Print a table and the JSON line, and exit with status 1 if a promise was not kept."""
    print(title)
    for ratio in ratios:
        promise = "" if ratio.limit is None else f"  promised <= {ratio.limit}: {'yes' if ratio.is_met else 'NO'}"
        print(
            f"  {ratio.name:<44} {ratio.plain_us:>9.2f} us {ratio.guarded_us:>9.2f} us"
            f"  x{ratio.ratio:.3f} ({ratio.low:.3f}-{ratio.high:.3f}){promise}"
        )
    facts = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
    print(json.dumps({"benchmark": title, "facts": facts, "figures": [asdict(ratio) for ratio in ratios], **more}))
    sys.exit(0 if all(ratio.is_met for ratio in ratios) else 1)
