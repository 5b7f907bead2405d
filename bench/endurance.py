"""A million guarded connects to a dead port in the trap, each way: no self-connect, and the memory stays as it is.

Each way runs in a process and a network namespace of its own, whose ephemeral range is two ports; a plain client in
the same namespace connects to itself before and after. The memory is read after the first tenth and at the end.
Run: ``python bench/endurance.py``, with ``--connects N`` for another number and ``--json`` for programs. Exit status
1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import tailbite
from tailbite.core.ports import PortRange
from tailbite.kernel.namespace import enter_private_network
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Callable

HOST, PORT = "127.0.0.1", 32246
WAYS = ("create_connection", "open_connection", "guard", "run")
GROWTH_KIB = 1024
"""Growth that is accepted: one byte per connect of a million would be as much."""
RELEASED_S = 20.0


def memory_kib() -> int:
    """Return the resident memory of this process (proc_pid_statm(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def connect_plainly() -> socket.socket:
    """Connect as most programs do."""
    sock = socket.socket()
    try:
        sock.connect((HOST, PORT))
    except BaseException:
        sock.close()
        raise
    return sock


def connect_with_library() -> socket.socket:
    """Connect with tailbite."""
    return tailbite.create_connection((HOST, PORT))


def is_self_connected_at_once(connect: Callable[[], socket.socket]) -> bool:
    """Connect once; the socket is reset if it was connected."""
    try:
        sock = connect()
    except OSError:
        return False
    itself = tailbite.is_self_connected(sock)
    abort(sock)
    return itself


def over_sockets(connect: Callable[[], socket.socket], connects: int) -> dict[str, int]:
    """Connect in a loop, and count."""
    found, after_a_tenth = 0, 0
    for number in range(connects):
        found += is_self_connected_at_once(connect)
        if number == connects // 10:
            after_a_tenth = memory_kib()
    return {"self-connects": found, "growth KiB": memory_kib() - after_a_tenth}


async def over_streams(connects: int) -> dict[str, int]:
    """Do the same with asyncio streams."""
    found, after_a_tenth = 0, 0
    for number in range(connects):
        with contextlib.suppress(OSError):
            _, writer = await tailbite.open_connection(HOST, PORT)
            found += tailbite.is_self_connected(writer)
            writer.transport.abort()
        if number == connects // 10:
            after_a_tenth = memory_kib()
    return {"self-connects": found, "growth KiB": memory_kib() - after_a_tenth}


def measure(way: str, connects: int) -> dict[str, int]:
    """Connect so many times in this process, one way."""
    if way == "open_connection":
        return asyncio.run(over_streams(connects))
    if way == "guard":
        tailbite.guard()
    return over_sockets(connect_with_library if way == "create_connection" else connect_plainly, connects)


def in_the_trap(way: str, connects: int) -> dict[str, Any]:
    """Run one way in a process of its own, between two controls."""
    enter_private_network()
    write_ephemeral_range(PortRange(PORT, PORT + 1))
    child = (sys.executable, __file__, way, "--connects", str(connects), "--measure")
    command = (sys.executable, "-m", "tailbite", "run", "--require", "--", *child) if way == "run" else child
    controls = [any(is_self_connected_at_once(connect_plainly) for _ in range(8))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    # The helpers of `run` may end after the program, and hold the port until then.
    until = monotonic() + RELEASED_S
    while not (does := any(is_self_connected_at_once(connect_plainly) for _ in range(8))) and monotonic() < until:
        sleep(0.01)
    controls.append(does)
    return {"way": way, "connects": connects, **json.loads(done.stdout), "controls": controls}


def main() -> int:
    """Run each way; return the exit status."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("ways", nargs="*", metavar="WAY", help=", ".join(WAYS))
    options.add_argument("--connects", type=int, default=1_000_000)
    options.add_argument("--json", action="store_true", help="one JSON object per line")
    options.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options.add_argument("--trap", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.measure:
        print(json.dumps(measure(given.ways[0], given.connects)))
        return 0
    if given.trap:
        print(json.dumps(in_the_trap(given.ways[0], given.connects)))
        return 0
    is_kept = True
    for way in given.ways or WAYS:
        command = (sys.executable, __file__, way, "--connects", str(given.connects), "--trap")
        line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        figures = json.loads(line)
        is_kept &= figures["self-connects"] == 0 and figures["growth KiB"] <= GROWTH_KIB and all(figures["controls"])
        print(line.strip() if given.json else f"{way}: {figures}", flush=True)
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
