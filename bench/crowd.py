"""A crowded host: ``why``, ``doctor`` and ``scan`` beside thousands of processes, namespaces and TIME-WAITs.

There are 5 000 processes, 500 network namespaces and 100 000 TIME-WAITs. The processes, each with some sockets open,
live in a PID namespace of their own; each of the network namespaces has a server on the same port, and a
self-connect. Compared is the CPU time of the whole command with that of a shell loop, which enters each namespace and
lists its sockets (``nsenter ss -Htan``). Promised: less than 3 seconds of CPU time, less than 5 for
``doctor``, which lists the sockets of each namespace more than once.

Run: ``python bench/crowd.py [--processes N] [--namespaces N] [--time-waits N]``
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from paired import compare, left_out, report

from tailbite.kernel.namespace import CLONE_NEWNET, unshare
from tailbite.kernel.prctl import die_with_parent
from tailbite.kernel.sockstat import read_tcp_usage
from tailbite.kernel.sysctl import write_sysctl

if TYPE_CHECKING:
    from collections.abc import Callable

PORT, CLOSING_PORT, SELF_PORT = 8080, 9000, 40001
OPEN = 5  # sockets of a process that has nothing to do with the port
EACH = 20_000  # connections to one address: there are no more source ports
BLOCKS = 3
MOST = {"doctor": 5e6}  # microseconds, else 3e6
INSIDE = "TAILBITE_BENCH_INSIDE"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=5000, metavar="N")
    parser.add_argument("--namespaces", type=int, default=500, metavar="N")
    parser.add_argument("--time-waits", type=int, default=100_000, metavar="N")
    wanted = parser.parse_args()
    if INSIDE not in os.environ:
        enter()
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")  # if memory is short, this ends first
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    write_sysctl("tcp_max_tw_buckets", str(2 * wanted.time_waits))
    server = socket.create_server(("127.0.0.1", PORT))
    for _ in range(wanted.namespaces):
        start(in_namespace)
    for _ in range(wanted.processes - wanted.namespaces):
        start(lambda: [socket.socket() for _ in range(OPEN)])
    ratios = []
    for name, *arguments in (
        ("scan", "scan"),
        ("why of a port that every namespace uses", "why", str(PORT)),
        ("why of a port in TIME-WAIT", "why", str(CLOSING_PORT)),
        ("doctor", "doctor"),
    ):
        leave_time_waits(wanted.time_waits)
        ratios.append(
            compare(name, cpu_of(LOOP), cpu_of(["tailbite", *arguments]), blocks=BLOCKS, most_us=MOST.get(name, 3e6))
        )
        print(f"  TIME-WAITs left: {read_tcp_usage('/proc/self').time_wait}", file=sys.stderr)
    server.close()
    report(
        "tailbite on a crowded host, beside nsenter and ss in each namespace",
        ratios,
        processes=wanted.processes,
        namespaces=wanted.namespaces,
        time_waits=wanted.time_waits,
    )


LOOP = ["sh", "-c", "for each in $(lsns -n -t net -o PID); do nsenter -t $each -n ss -Htan; done; true"]


def enter() -> None:
    """Start again in PID and network namespaces of our own, whose processes end with the first."""
    if any(shutil.which(name) is None for name in ("unshare", "nsenter", "lsns", "ss", "ip")):
        left_out("everything", "unshare, nsenter, lsns (util-linux), ss and ip (iproute2) are needed")
        report("tailbite on a crowded host", [])
    user = [] if os.geteuid() == 0 else ["-Ur"]
    command = ["unshare", *user, "-n", "-p", "-f", "--mount-proc", "--kill-child", sys.executable, *sys.argv]
    os.execvpe("unshare", command, {**os.environ, INSIDE: "1"})


def start(make: Callable[[], object]) -> None:
    """Start a process that makes something, keeps it and waits; return when it is there."""
    ready, tell = os.pipe()
    if os.fork() == 0:
        die_with_parent()
        try:
            kept = make()
            os.write(tell, b"+")
            signal.pause()
            del kept
        finally:
            os._exit(1)
    os.close(tell)
    answer = os.read(ready, 1)
    os.close(ready)
    if answer != b"+":
        sys.exit("a process could not be set up")


def in_namespace() -> object:
    """Enter a new network namespace; return a server there and a self-connect."""
    unshare(CLONE_NEWNET)
    server = socket.create_server(("0.0.0.0", PORT))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    itself = socket.socket()
    itself.bind(("127.0.0.1", SELF_PORT))
    itself.connect(("127.0.0.1", SELF_PORT))
    return server, itself


def leave_time_waits(number: int) -> None:
    """Make connections that end in TIME-WAIT, which lasts 60 s, on the side of the server's port."""
    missing = number - read_tcp_usage("/proc/self").time_wait
    for round_ in range(-(-missing // EACH)):
        address = (f"127.0.{os.getpid() % 200}.{round_ + 1}", CLOSING_PORT)
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
            server.listen()
            for _ in range(min(EACH, missing - round_ * EACH)):
                with socket.create_connection(address):
                    server.accept()[0].close()


def cpu_of(command: list[str]) -> Callable[[], float]:
    """Return a function that gives the CPU seconds of a command and of what it starts."""
    line = [sys.executable, "-m", *command] if command[0] == "tailbite" else command

    def run() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"{line}: exit status {done.returncode}: {done.stderr.decode()}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return run


if __name__ == "__main__":
    main()
