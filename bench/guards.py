"""What each guard costs a program that it guards: connects with it against the same connects without.

An audit hook cannot be taken away and a guarded program stays guarded, so each side of a pair is a process of
its own, and they take turns block by block. A block counts with its median, for the machine may be busy. All of it
happens in private network namespaces.
Run: ``python bench/guards.py``
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from paired import Ratio, compare, report

from tailbite.kernel.namespace import enter_private_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INSIDE, OUTSIDE = 46884, 5432
BLOCK = 200
RESET = b"\1\0\0\0\0\0\0\0"
PYTHON = (sys.executable, __file__)


def live(port: int) -> Callable[[], float]:
    """Connects to a listener of this process; accepting and closing happen outside the measured time."""
    server = socket.create_server(("127.0.0.1", port))

    def block() -> float:
        spent = []
        for _ in range(BLOCK):
            start = perf_counter()
            client = socket.create_connection(("127.0.0.1", port))
            spent.append(perf_counter() - start)
            server.accept()[0].close()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
        return median(spent)

    return block


def dead(port: int) -> Callable[[], float]:
    """Connects that are refused; a bound socket keeps the port from connecting to itself, guarded or not."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", port))

    def block() -> float:
        assert holder.fileno() >= 0
        spent = []
        for _ in range(BLOCK):
            with socket.socket() as sock:
                start = perf_counter()
                sock.connect_ex(("127.0.0.1", port))
                spent.append(perf_counter() - start)
        return median(spent)

    return block


def opens(_: int) -> Callable[[], float]:
    """open() and close(): an audit event that has nothing to do with sockets, and a system call nobody filters."""

    def block() -> float:
        spent = []
        for _ in range(BLOCK):
            start = perf_counter()
            with open("/dev/null", "rb", buffering=0):  # noqa: PTH123 - what is measured
                pass
            spent.append(perf_counter() - start)
        return median(spent)

    return block


WORK = {"live": live, "dead": dead, "opens": opens}


def work(guarded: str, kind: str, port: str) -> None:
    """Be one side of a pair: measure a block for each line on stdin."""
    block = WORK[kind](int(port))
    if guarded == "guard()":
        import tailbite

        tailbite.guard()  # after the listener is there: most clients have none of their own on that port
    for _ in sys.stdin:
        print(block(), flush=True)


@dataclass
class Side:
    """A process that is one side of a pair."""

    process: subprocess.Popen[str]

    def __call__(self) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


@contextlib.contextmanager
def side(*arguments: str, before: tuple[str, ...] = ()) -> Iterator[Side]:
    """Start one side; ``before`` is a command that runs it."""
    with subprocess.Popen(
        [*before, *PYTHON, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Side(process)


def main() -> None:
    """Measure all pairs and print them."""
    enter_private_network()
    ratios: list[Ratio] = []
    for kind, port, name, limit in (
        ("live", INSIDE, "create_connection, in the range", 1.10),
        ("live", OUTSIDE, "create_connection, outside the range", None),
        ("dead", INSIDE, "refused connect, in the range", None),
        ("opens", 0, "open() and close()", None),
    ):
        with side("plain", kind, str(port)) as plain, side("guard()", kind, str(port + 2)) as guarded:
            ratios.append(compare(f"guard(): {name}", plain, guarded, limit=limit))
    report("what a guard costs the guarded program", ratios)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(*sys.argv[1:])
    else:
        main()
