"""What starting costs: ``import tailbite`` over bare Python, the command's help, and the whole demo.

Promised: importing the library adds at most 15 ms to bare Python; the demo takes less than a second.
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


def process(*arguments: str) -> Callable[[], float]:
    """Time one whole Python process."""

    def run() -> float:
        start = perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return perf_counter() - start

    return run


def main() -> None:
    """Measure and print."""
    bare = process("-c", "pass")
    ours = process("-c", "import tailbite; tailbite.create_connection")
    ratios = [
        compare("import tailbite", bare, process("-c", "import tailbite"), blocks=20, most_added_us=15_000),
        compare("import tailbite; tailbite.create_connection", process("-c", "import socket"), ours, blocks=20),
        compare("tailbite --help", bare, process("-m", "tailbite", "--help"), blocks=20),
        compare("tailbite demo, all six acts", bare, process("-m", "tailbite", "demo"), blocks=6, most_us=1_000_000),
    ]
    report("start-up, beside bare Python", ratios)


if __name__ == "__main__":
    main()
