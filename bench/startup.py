"""Cost of starting: ``import tailbite`` beside bare Python, whole commands, and the whole demo.

Promised: importing the library adds at most 15 ms to bare Python; ``tailbite --help`` takes at most 80 ms,
``tailbite scan`` on a host with few processes and sockets at most 150 ms, and the demo less than a second. Everything
has been compiled before, as what is installed is.
Run: ``python bench/startup.py``
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from paired import compare, no_options, report

from tailbite.kernel.namespace import enter_private_network

if TYPE_CHECKING:
    from collections.abc import Callable


def process(cache: str, *arguments: str) -> Callable[[], float]:
    """Time one whole Python process."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    call = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)

    def run() -> float:
        start = perf_counter()
        call([sys.executable, *arguments])
        return perf_counter() - start

    return run


def main() -> None:
    """Measure and print."""
    enter_private_network()
    with tempfile.TemporaryDirectory() as cache:
        bare = process(cache, "-c", "pass")
        imported = process(cache, "-c", "import tailbite")
        sockets = process(cache, "-c", "import socket")
        ours = process(cache, "-c", "import tailbite; tailbite.create_connection")
        command = partial(process, cache, "-m", "tailbite")
        scan = command("scan", "--netns", "self")
        ratios = [
            compare("import tailbite", bare, imported, blocks=20, most_added_us=15_000),
            compare("import tailbite; tailbite.create_connection", sockets, ours, blocks=20),
            compare("tailbite --help", bare, command("--help"), blocks=20, most_us=80_000),
            compare("tailbite scan", bare, scan, blocks=20, most_us=150_000),
            compare("tailbite run -- true", bare, command("run", "--", "true"), blocks=20),
            compare("tailbite demo, all six acts", bare, command("demo"), blocks=6, most_us=1_000_000),
        ]
    report("start-up, beside bare Python", ratios)


if __name__ == "__main__":
    no_options(__doc__)
    main()
