"""Paired timing: two things in turn, block by block, so that a machine's changing speed hits both alike.

Every benchmark prints its figures on stderr as they come, and one JSON object on stdout: its figures, and the facts
of the machine.
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

__all__ = ["Ratio", "compare", "left_out", "no_options", "report", "spell", "times"]


def no_options(about: str | None) -> None:
    """Read the command line of a benchmark without options: print ``about`` for --help, and refuse all else.

    Raises:
        SystemExit: the benchmark is not to run.
    """
    import argparse

    argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()


@dataclass(frozen=True)
class Ratio:
    """Cost of a guarded operation beside the plain one, and the project's promise about it, if any.

    Attributes:
        name: what was compared.
        plain_us: median microseconds of the plain one.
        guarded_us: median microseconds of the guarded one.
        ratio: median of the ratios of neighbouring blocks.
        low: the first quartile of those ratios.
        high: the third quartile.
        limit: the ratio that is promised.
        most_added_us: the microseconds that are promised to be added at most.
        most_us: the microseconds that are promised to be taken at most.
        unit: "us", or "KiB" where memory is compared and the names above do not fit.
    """

    name: str
    plain_us: float
    guarded_us: float
    ratio: float
    low: float
    high: float
    limit: float | None = None
    most_added_us: float | None = None
    most_us: float | None = None
    unit: str = "us"

    @property
    def plain_and_guarded(self) -> tuple[str, str]:
        """Both medians, each with its unit."""
        if self.unit == "KiB":
            return f"{self.plain_us / 1024:.1f} MiB", f"{self.guarded_us / 1024:.1f} MiB"
        return spell(self.plain_us), spell(self.guarded_us)

    @property
    def promise(self) -> str:
        """The promise in words; empty without one."""
        if self.limit is not None:
            return f"at most {self.limit:g}"
        if self.most_added_us is not None:
            return f"adds at most {spell(self.most_added_us)}"
        return f"at most {spell(self.most_us)}" if self.most_us is not None else ""

    @property
    def is_met(self) -> bool:
        """True if what is promised holds, or nothing is."""
        if self.limit is not None:
            return self.ratio <= self.limit
        if self.most_added_us is not None:
            return self.guarded_us - self.plain_us <= self.most_added_us
        return self.most_us is None or self.guarded_us <= self.most_us


def compare(
    name: str,
    plain: Callable[[], float],
    guarded: Callable[[], float],
    *,
    blocks: int = 60,
    limit: float | None = None,
    most_added_us: float | None = None,
    most_us: float | None = None,
) -> Ratio:
    """Run both ``blocks`` times in turn; each call returns the seconds that one operation took, on average.

    One block is enough for operations that take long. Then there is no run before the measured one, and there are no
    quartiles.
    """
    if sys.stderr.isatty():
        print(f"  {name} ...", end="\r", file=sys.stderr, flush=True)
    if blocks > 1:
        plain(), guarded()
    pairs = []
    for number in range(blocks):
        first, second = (plain, guarded) if number % 2 == 0 else (guarded, plain)
        one, other = first(), second()
        pairs.append((one, other) if number % 2 == 0 else (other, one))
    ratios = [guarded_s / plain_s for plain_s, guarded_s in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4) if blocks > 1 else ratios * 3
    seen = Ratio(
        name,
        round(statistics.median(pair[0] for pair in pairs) * 1e6, 2),
        round(statistics.median(pair[1] for pair in pairs) * 1e6, 2),
        round(middle, 5),
        round(low, 5),
        round(high, 5),
        limit,
        most_added_us,
        most_us,
    )
    kept = f"  {seen.promise}: {'kept' if seen.is_met else 'NOT KEPT'}" if seen.promise else ""
    print(
        f"  {name:<50} {spell(seen.plain_us):>9} {spell(seen.guarded_us):>9}"
        f"  x{times(seen.ratio)} ({times(seen.low)}-{times(seen.high)}){kept}",
        file=sys.stderr,
        flush=True,
    )
    return seen


def spell(microseconds: float) -> str:
    """Return a time with its unit."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= size:
            return f"{microseconds / size:.3g} {unit}"
    return f"{microseconds:.3g} us"


def times(ratio: float) -> str:
    """Return a ratio with the digits that say something."""
    return f"{ratio:.3f}" if ratio >= 0.1 else f"{ratio:.2g}"


def left_out(what: str, why: str) -> None:
    """Say that something is not measured here."""
    print(f"  left out: {what}: {why}", file=sys.stderr, flush=True)


def report(title: str, ratios: list[Ratio], **more: Any) -> None:
    """Print the JSON line, and exit with status 1 if a promise was not kept."""
    facts = {
        "python": platform.python_version(),
        # Distributions build Python with profile-guided optimization, version managers mostly do not.
        "python_is": "the distribution's" if sys.base_prefix == "/usr" else "not the distribution's",
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
    print(json.dumps({"benchmark": title, "facts": facts, "figures": [asdict(ratio) for ratio in ratios], **more}))
    sys.exit(0 if all(ratio.is_met for ratio in ratios) else 1)
