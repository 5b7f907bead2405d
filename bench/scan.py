"""A host with very many sockets: tailbite's scan against ss, ss | awk, awk over /proc/net/tcp, and psutil.

Makes the sockets in a private network namespace: real connections over loopback, both ends counted, whose server
port lies *inside* the ephemeral range (the hard case for a filter by port), and a few self-connects among them: IPv4,
IPv6, v4-mapped, below and above the range, ESTABLISHED and TIME-WAIT. All are timed in turn in one run.
Promised: all found by tailbite, at most 0.35 of the wall time of ``ss -Htan | awk '$4==$5'`` for 500 000 sockets (the
whole ``tailbite scan`` process against the whole pipeline), a million sockets in less than a second, and memory that
does not grow with their number: at most 2 MiB between a few sockets and a million.

Run: ``python bench/scan.py [--sockets N] [--then N] [--rounds N] [--no-psutil] [--pieces 1,8,64]``
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING
from unittest import mock

from paired import Ratio, compare, report

from tailbite.kernel import sock_diag
from tailbite.kernel.diag_filter import cuts
from tailbite.kernel.namespace import enter_private_network
from tailbite.kernel.prctl import die_with_parent
from tailbite.kernel.sock_diag import SockDiag, TcpState
from tailbite.kernel.sysctl import read_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT = 0.35
MILLION, MOST_US = 1_000_000, 1e6
MOST_KIB_MORE = 2048
SERVER_PORT = 50051
SELF: list[tuple[int, str, int, bool]] = [
    (socket.AF_INET, "127.0.0.1", 80, False),
    (socket.AF_INET, "127.0.0.1", 32768, False),
    (socket.AF_INET, "127.0.0.1", 46884, False),
    (socket.AF_INET, "127.0.0.1", 65535, True),
    (socket.AF_INET6, "::1", 60999, False),
    (socket.AF_INET6, "::1", 61000, True),
    (socket.AF_INET6, "::ffff:127.0.0.2", 40001, False),
    (socket.AF_INET6, "::ffff:127.0.0.3", 40002, True),
]


def connections(number: int, net: int) -> Iterator[int]:
    """Keep this many connections open, two sockets each; children hold them, for a process may open so many only.

    Each child has a server address of its own, 127.net.child.1: there are no more source ports than that to one.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    each = min((most - 100) // 2, 20_000)
    for child in range(-(-number // each)):
        yield fork(f"127.{net}.{child}.1", min(each, number - child * each))


def fork(host: str, number: int) -> int:
    """Start a child that makes the connections to one address; return when they are there."""
    done, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        try:
            server = socket.create_server((host, SERVER_PORT), backlog=64)
            held = [server]
            for _ in range(number):
                client = socket.create_connection(server.getsockname())
                held += [client, server.accept()[0]]
            os.write(tell, b"+")
            signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    answer = os.read(done, 1)
    os.close(done)
    if answer != b"+":
        sys.exit(f"could not make {number} connections to {host}")
    return pid


class Needles:
    """The self-connects to find. TIME-WAIT lasts 60 s, so those are made again for each timing."""

    def __init__(self) -> None:
        self._held = [itself(family, host, port) for family, host, port, closed in SELF if not closed]

    def renew(self) -> None:
        """Have every needle in place."""
        with SockDiag() as diag:
            for left in diag.self_connects(read_ephemeral_range()).sockets:
                if left.state is TcpState.TIME_WAIT:
                    diag.destroy(left)
        for family, host, port, closed in SELF:
            if closed:
                itself(family, host, port).close()


def itself(family: int, host: str, port: int) -> socket.socket:
    """Return a socket that is connected to itself."""
    sock = socket.socket(family)
    sock.bind((host, port))
    sock.connect((host, port))
    return sock


def shell(command: str) -> Callable[[], int]:
    """Return what runs a pipeline and counts the lines it prints."""

    def run() -> int:
        done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
        return done.stdout.count(b"\n")

    return run


def scan_process() -> int:
    """Run the whole command, as a person does."""
    done = subprocess.run(
        [sys.executable, "-m", "tailbite", "scan", "--netns", "self", "--json"], capture_output=True, check=False
    )
    return len(json.loads(done.stdout)["self_connects"])


def scan_library() -> int:
    """Look with the library alone."""
    with SockDiag() as diag:
        return len(diag.self_connects(read_ephemeral_range()).sockets)


def psutil_loop() -> int:
    """Do the work of a script with psutil: compare all connections of the namespace."""
    code = "import psutil; print(sum(bool(c.raddr) and c.laddr == c.raddr for c in psutil.net_connections('tcp')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return int(done.stdout or -1)


def timed(needles: Needles, look: Callable[[], int], *, all_of_them: bool = True) -> Callable[[], float]:
    """Return a function that runs one inspection and returns its seconds; it must find every needle."""

    def run() -> float:
        needles.renew()
        start = perf_counter()
        found = look()
        spent = perf_counter() - start
        if all_of_them and found != len(SELF):
            sys.exit(f"found {found} of {len(SELF)} self-connects")
        return spent

    return run


def peak_kib(arguments: list[str]) -> int:
    """Return the peak resident memory of a process, the largest of 5: it varies with where things lie."""
    return max(_peak_kib(arguments) for _ in range(5))


def _peak_kib(arguments: list[str]) -> int:
    done = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(done.pid, 0)
    done.returncode = 0
    return usage.ru_maxrss


def by_pieces(needles: Needles, pieces: list[int]) -> dict[int, float]:
    """Time the library's look with other numbers of pieces of the ephemeral range; seconds, the best of 5."""
    figures = {}
    for number in pieces:
        with mock.patch.object(sock_diag, "cuts", partial(cuts, pieces=number)):
            figures[number] = round(min(timed(needles, scan_library)() for _ in range(5)), 4)
    return figures


def measure(needles: Needles, rounds: int, *, with_psutil: bool) -> list[Ratio]:
    """Time each alternative and tailbite in turn."""
    ss_awk = timed(needles, shell("ss -Htan | awk '$4==$5'"))
    ss = timed(needles, shell("ss -Htan >/dev/null"), all_of_them=False)
    awk = timed(needles, shell("awk '$2==$3' /proc/net/tcp /proc/net/tcp6"))
    ours = timed(needles, scan_process)
    figures = [
        compare("tailbite scan, beside ss -Htan piped to awk", ss_awk, ours, blocks=rounds, limit=LIMIT),
        compare("the library alone, beside the same", ss_awk, timed(needles, scan_library), blocks=rounds),
        compare("tailbite scan, beside ss -Htan, not compared", ss, ours, blocks=rounds),
        compare("tailbite scan, beside awk over /proc/net/tcp*", awk, ours, blocks=3),
    ]
    if with_psutil:
        # It looks for the process of every socket, which takes long: once is enough; TIME-WAIT may end meanwhile.
        loop = timed(needles, psutil_loop, all_of_them=False)
        figures.append(compare("tailbite scan, beside psutil.net_connections", loop, ours, blocks=1))
    return figures


def among(number: int, needles: Needles) -> Ratio:
    """Time the whole scan among so many sockets."""
    ss_awk, ours = timed(needles, shell("ss -Htan | awk '$4==$5'")), timed(needles, scan_process)
    most = MOST_US if number <= MILLION else None
    return compare(f"tailbite scan among {number:,}, beside ss and awk", ss_awk, ours, blocks=5, most_us=most)


def main() -> None:
    """Make the sockets, time everything in turn, and print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, default=500_000)
    parser.add_argument("--then", type=int, default=MILLION, help="at last, scan among so many; 0: do not")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--no-psutil", action="store_true", help="leave psutil out, which takes minutes")
    parser.add_argument("--pieces", default="", metavar="1,8,64", help="time only the library, with so many pieces")
    wanted = parser.parse_args()
    enter_private_network()
    command = [sys.executable, "-m", "tailbite", "scan", "--netns", "self"]
    needles = Needles()
    small = peak_kib(command)
    with contextlib.ExitStack() as stack:

        def fill(number: int, net: int) -> None:
            start = perf_counter()
            for pid in connections(number // 2, net):
                stack.callback(os.waitpid, pid, 0)
                stack.callback(os.kill, pid, signal.SIGKILL)
            print(f"{number:,} sockets made in {perf_counter() - start:.0f} s", file=sys.stderr)

        fill(wanted.sockets, net=1)
        if wanted.pieces:
            print(json.dumps(by_pieces(needles, [int(number) for number in wanted.pieces.split(",")])))
            return
        figures = measure(needles, wanted.rounds, with_psutil=not wanted.no_psutil)
        memory = {"few sockets": small, f"{wanted.sockets:,} sockets": peak_kib(command)}
        if wanted.then > wanted.sockets:
            fill(wanted.then - wanted.sockets, net=2)
            figures.append(among(wanted.then, needles))
            memory[f"{wanted.then:,} sockets"] = peak_kib(command)
    if (more := max(memory.values()) - small) > MOST_KIB_MORE:
        sys.exit(f"tailbite scan took {more} KiB more among many sockets; promised: at most {MOST_KIB_MORE} KiB")
    report(
        f"looking for self-connects among {wanted.sockets:,} sockets",
        figures,
        peak_memory_of_tailbite_scan_in_KiB=memory,
    )


if __name__ == "__main__":
    main()
