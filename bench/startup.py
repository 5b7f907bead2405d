"""What starting costs: ``import tailbite`` over bare Python, and the command's help.

Promised: importing the library and touching its blocking functions stays under 15 ms over bare Python.
Run: ``python bench/startup.py``
"""

from __future__ import annotations

import subprocess
import sys
from time import perf_counter
from typing import TYPE_CHECKING

from paired import compare, report

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_MS_OVER_BARE = 15.0


def process(*arguments: str) -> Callable[[], float]:
    """Time one whole Python process."""

    def run() -> float:
        start = perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        return perf_counter() - start

    return run


def main() -> None:
    """Measure and print."""
    bare = process("-c", "pass")
    ratios = [
        compare("import tailbite", bare, process("-c", "import tailbite"), blocks=20),
        compare(
            "import tailbite; tailbite.create_connection",
            process("-c", "import socket"),
            process("-c", "import tailbite; tailbite.create_connection"),
            blocks=20,
        ),
        compare("tailbite --help", bare, process("-m", "tailbite", "--help"), blocks=20),
    ]
    over_ms = (ratios[0].guarded_us - ratios[0].plain_us) / 1000
    if over_ms > MOST_MS_OVER_BARE:
        sys.exit(f"import tailbite takes {over_ms:.1f} ms over bare Python; promised: {MOST_MS_OVER_BARE} ms")
    report("start-up", ratios, import_ms_over_bare=round(over_ms, 2))


if __name__ == "__main__":
    main()
