"""CPU time of a checkup with very many ports, and with very many listeners.

Promised: ``tailbite doctor`` as a whole process takes less than a second of CPU time for any set of ports, up to all
65 535 of them, and for a thousand listeners; and its report of 30 listeners has at most 60 lines of 80 columns.
Run: ``python bench/doctor.py``
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from paired import compare, no_options, report

from tailbite.kernel.namespace import enter_private_network, fresh_network

if TYPE_CHECKING:
    from collections.abc import Callable

LISTENERS = 1000
MOST_US = 1_000_000
MOST_LINES = 60


def process(*arguments: str) -> Callable[[], float]:
    """Return a function that gives the CPU seconds of one ``tailbite doctor``."""

    def run() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "tailbite", "doctor", "--netns", "self", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        if done.returncode not in (0, 1):
            raise RuntimeError(done.stderr.decode())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return run


def listen(stack: contextlib.ExitStack, count: int) -> None:
    """Listen on so many ports of the ephemeral range."""
    for port in range(40000, 40000 + count):
        stack.enter_context(socket.create_server(("127.0.0.1", port)))


def report_lines() -> int:
    """Return the number of lines of the report about 30 listeners."""
    with fresh_network(), contextlib.ExitStack() as stack:
        listen(stack, 30)
        done = subprocess.run(
            [sys.executable, "-m", "tailbite", "doctor", "--netns", "self"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "COLUMNS": "80"},
        )
    return len(done.stdout.splitlines())


def main() -> None:
    """Measure and print."""
    enter_private_network()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        named = Path(folder) / "services"
        named.write_text("".join(f"{port} service{port}\n" for port in range(1, 65536, 2)), encoding="ascii")
        bare = process()
        ratios = [
            compare("node ports, 30000-32767", bare, process("--ports", "30000-32767"), blocks=10, most_us=MOST_US),
            compare("all 65 535 ports", bare, process("--ports", "1-65535"), blocks=10, most_us=MOST_US),
            compare("every second port, named", bare, process("--ports", str(named)), blocks=10, most_us=MOST_US),
        ]
        listen(stack, LISTENERS)
        ports = f"40000-{40000 + LISTENERS - 1}"
        ratios.append(compare(f"{LISTENERS} listeners", bare, process("--ports", ports), blocks=10, most_us=MOST_US))
    lines = report_lines()
    if lines > MOST_LINES:
        raise SystemExit(f"the report about 30 listeners has {lines} lines, at most {MOST_LINES} are promised")
    report("tailbite doctor, beside one without ports", ratios, report_lines=lines)


if __name__ == "__main__":
    no_options(__doc__)
    main()
