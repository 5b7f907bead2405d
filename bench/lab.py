"""Speed of the lab: the reconnect loop beside telnet, and simulated hosts beside a walk port by port.

Promised: tens of thousands of attempts a second, so at most 100 us each; a million hosts that try for ten minutes
every 100 ms in less than a minute, so at most 60 us for each host.
Run: ``python bench/lab.py``
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from time import perf_counter
from typing import TYPE_CHECKING

from paired import Ratio, compare, left_out, no_options, report

from tailbite.core.ports import PortRange, PortSet
from tailbite.core.selection import circle_of
from tailbite.kernel.namespace import enter_private_network
from tailbite.lab.loop import ExperimentSettings, run_loop
from tailbite.lab.simulation import simulate_hosts

if TYPE_CHECKING:
    from tailbite.core.selection import Circle

RANGE = PortRange(32768, 60999)
EVEN, ODD = 32774, 32775
TELNETS, ATTEMPTS = 20, 40_000
HOSTS, TRIES = 100_000, 6000


def telnet() -> float:
    """Run the story's loop: one process after the other."""
    start = perf_counter()
    for _ in range(TELNETS):
        subprocess.run(["telnet", "127.0.0.1", str(ODD)], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    return (perf_counter() - start) / TELNETS


def loop() -> float:
    """Run the lab's loop on every CPU, counting; the odd port is never hit, so all attempts are made."""
    cpus = os.cpu_count() or 1
    settings = ExperimentSettings(ODD, RANGE, cpus, ATTEMPTS, workers=cpus)
    start = perf_counter()
    tallies = run_loop(settings, lambda hits, attempts: None)
    return (perf_counter() - start) / sum(tally.attempts for tally in tallies)


def one_by_one(circle: Circle) -> float:
    """Draw every port of some hosts; return seconds for one host."""
    pick, hosts, slots = random.Random(1), 20, len(circle)
    start = perf_counter()
    for _ in range(hosts):
        at = pick.randrange(slots)
        for _ in range(TRIES):
            if circle.chosen[at] == EVEN:
                break
            at = (at + 1 + max(pick.randrange(circle.strides), circle.skipped[at])) % slots
    return (perf_counter() - start) / hosts


def at_once(circle: Circle) -> float:
    """Simulate a fleet; return seconds for one host."""
    start = perf_counter()
    simulate_hosts(circle, EVEN, hosts=HOSTS, attempts=TRIES)
    return (perf_counter() - start) / HOSTS


def main() -> None:
    """Measure and print."""
    enter_private_network()
    circle = circle_of(RANGE, PortSet())
    assert circle is not None
    ratios: list[Ratio] = []
    if shutil.which("telnet"):
        ratios.append(compare("lab loop: an attempt, beside telnet", telnet, loop, blocks=10, most_us=100))
    else:
        left_out("lab loop", "telnet is not installed")
    fleet = "lab odds --hosts: a host, beside draw by draw"
    ratios.append(compare(fleet, lambda: one_by_one(circle), lambda: at_once(circle), blocks=10, most_us=60))
    report("the lab", ratios)


if __name__ == "__main__":
    no_options(__doc__)
    main()
