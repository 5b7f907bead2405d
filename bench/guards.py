"""The cost of each guard to the program that it guards: connects with the guard against the same connects without.

An audit hook cannot be taken away and a guarded program stays guarded, so each side of a pair is a process of
its own, and they take turns block by block. Both sides of a pair stay on one CPU: the same code takes longer on one
CPU than on another, by more than a guard costs. Only what several threads do in parallel may use every CPU. A block
counts with its tenth percentile: what the code costs, and not what the machine's other work does to it. All of it
happens in private network namespaces.
Run: ``python bench/guards.py``
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from floor import build_floor
from paired import Ratio, compare, left_out, no_options, report

import tailbite
from tailbite.errors import FirewallError
from tailbite.guards.host import firewall as host_firewall
from tailbite.kernel.namespace import enter_private_network, fresh_network
from tailbite.kernel.sockopt import IP_LOCAL_PORT_RANGE, SO_NETNS_COOKIE, pack_port_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INSIDE, OUTSIDE = 46884, 5432
BLOCK, BLOCKS = 100, 300
"""Connects in a block, and blocks of either side: short ones, so that both sides of a pair meet the same machine."""
PROCESSES = 6
"""So many of either side: how a process lies in memory makes it a few percent faster or slower than its like."""
RESET = b"\1\0\0\0\0\0\0\0"


class Promise(NamedTuple):
    """A promise for a live connect in the range."""

    limit: float | None = None
    most_added_us: float | None = None


NOTHING = Promise()
# The work of `run` is done by another process, whatever the connect costs: beside_floor() has its promises.
PROMISES = {"guard()": Promise(1.25), "run": NOTHING, "host guard": Promise(1.05)}
LEAST_HOOK = "the least hook"
BESIDE_LEAST_HOOK = Promise(1.10)
PROMISED_FOR = "a Python built with optimization, as distributions build it, version 3.11 or newer"
THREADS, CONNECTS = 50, 20
PYTHON = (sys.executable, __file__)
RUN = (sys.executable, "-m", "tailbite", "run", "--require", "--")


def typical(spent: list[float]) -> float:
    """Return the tenth percentile."""
    return sorted(spent)[len(spent) // 10]


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
        return typical(spent)

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
        return typical(spent)

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
        return typical(spent)

    return block


def parallel(port: int, *, median: bool = False) -> Callable[[], float]:
    """Connects of 50 threads to one listener; the wall time for each connect, or the median of what each took."""
    server = socket.create_server(("127.0.0.1", port), backlog=2 * THREADS * CONNECTS)

    def work(spent: list[float]) -> None:
        for _ in range(CONNECTS):
            with socket.socket() as sock:
                start = perf_counter()
                sock.connect(("127.0.0.1", port))
                spent.append(perf_counter() - start)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def block() -> float:
        spent: list[float] = []
        threads = [threading.Thread(target=work, args=(spent,)) for _ in range(THREADS)]
        start = perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        each = (perf_counter() - start) / len(spent)
        for _ in spent:
            server.accept()[0].close()
        return sorted(spent)[len(spent) // 2] if median else each

    return block


def parallel_median(port: int) -> Callable[[], float]:
    """The median connect of 50 threads."""
    return parallel(port, median=True)


WORK = {"live": live, "dead": dead, "opens": opens, "parallel": parallel, "parallel median": parallel_median}


def work(guarded: str, kind: str, port: str) -> None:
    """Be one side of a pair: measure a block for each line on stdin."""
    block = WORK[kind](int(port))
    if guarded == "guard()":
        tailbite.guard()  # after the listener is there: most clients have none of their own on that port
    if guarded == LEAST_HOOK:
        add_least_hook()
    for _ in sys.stdin:
        print(block(), flush=True)


def add_least_hook() -> None:
    """Guard with the least that a Python program can: an audit hook and its three system calls, and nothing else.

    A connect must not be steered by the range of another network namespace, nor lose a range of the program's own. So
    the hook asks for the socket's namespace and for its range, and sets the range, before every connect.
    """
    with socket.socket() as sock:
        home = sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
    one_side = pack_port_range(32768, INSIDE - 1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            sock = arguments[0]
            if (
                sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8) == home
                and sock.getsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE) == 0
            ):
                sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, one_side)

    sys.addaudithook(hook)


class SideEnded(Exception):  # noqa: N818 - named like BlockingIOError
    """A side could not work, and has said why."""


@dataclass
class Side:
    """A process that is one side of a pair."""

    process: subprocess.Popen[str]

    def __call__(self) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        if not (line := self.process.stdout.readline()):
            raise SideEnded(f"{self.process.args!r} ended with status {self.process.wait()}")
        return float(line)


@contextlib.contextmanager
def side(*arguments: str, before: tuple[str, ...] = ()) -> Iterator[Side]:
    """Start one side; ``before`` is a command that runs it."""
    with subprocess.Popen(
        [*before, *PYTHON, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Side(process)


@contextlib.contextmanager
def on_cpu(number: int) -> Iterator[None]:
    """Start processes that stay on one CPU, another one for each of the next numbers."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(usable)[number % len(usable)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


def inside_host_guard(stack: contextlib.ExitStack, *arguments: str) -> Side:
    """Start one side in a network namespace of its own that has the host guard's rule."""
    with fresh_network():
        for version in host_firewall.VERSIONS:
            firewall = host_firewall.find_firewall(version)
            for line in host_firewall.install_commands(host_firewall.read_state(firewall), firewall):
                host_firewall.run_firewall(line)
        return stack.enter_context(side(*arguments))


def pair(name: str, kind: str, port: int, guard: str, promise: Promise = NOTHING, *, beside: str = "plain") -> Ratio:
    """Measure one kind of work with one guard, against the same without, in processes that take turns."""
    with contextlib.ExitStack() as stack:
        sides = []
        for number in range(PROCESSES):
            with on_cpu(number):
                sides.append(one_of_each(stack, kind, port + 4 * number, guard, beside))
        for side_of_either in itertools.chain(*sides):
            side_of_either()
        plain, guarded = (itertools.cycle(each) for each in zip(*sides, strict=True))
        return compare(
            f"{guard}: {name}",
            lambda: next(plain)(),  # noqa: PLW0108 - another side each time
            lambda: next(guarded)(),  # noqa: PLW0108
            blocks=BLOCKS,
            limit=promise.limit,
            most_added_us=promise.most_added_us,
        )


def one_of_each(stack: contextlib.ExitStack, kind: str, port: int, guard: str, beside: str) -> tuple[Side, Side]:
    """Start a process without the guard, plain as a rule, and a guarded one."""
    if guard == "host guard":
        with fresh_network():
            plain = stack.enter_context(side("plain", kind, str(port)))
        return plain, inside_host_guard(stack, "plain", kind, str(port))
    plain = stack.enter_context(side(beside, kind, str(port)))
    before = RUN if guard == "run" else ()
    how = guard if guard == "guard()" else "plain"
    return plain, stack.enter_context(side(how, kind, str(port + 2), before=before))


def beside_floor(floor: str) -> list[Ratio]:
    """Measure what ``run`` costs beside the least supervisor in C, in the same run."""
    ratios = [added_beside_floor("run: added to a live connect, beside C", floor, RUN, INSIDE, 1.75)]
    if (python := distribution_python()) is None:
        left_out("run by the distribution's Python", "/usr/bin/python3 is missing or cannot run tailbite")
    else:
        ratios.append(
            added_beside_floor(
                "run by the distribution's Python: the same", floor, (*python, *RUN[1:]), INSIDE + 300, 1.55
            )
        )
    with contextlib.ExitStack() as stack:
        plain, _, ours = three_sides(stack, "parallel", INSIDE + 100, floor, RUN)
        ratios.append(compare("run: a connect of 50 threads, beside plain", plain, ours, blocks=20, limit=1 / 0.75))
        _, in_c, ours = three_sides(stack, "parallel median", INSIDE + 200, floor, RUN)
        ratios.append(compare("run: median of 50 threads, beside C", in_c, ours, blocks=20))
    return ratios


def added_beside_floor(name: str, floor: str, run: tuple[str, ...], port: int, limit: float) -> Ratio:
    """Measure what ``run`` adds to a connect as a multiple of what the supervisor in C adds; each on one CPU."""
    with contextlib.ExitStack() as stack:
        sides = []
        for number in range(PROCESSES):
            with on_cpu(number):
                sides.append(three_sides(stack, "live", port + 6 * number, floor, run))
        for each in itertools.chain(*sides):
            each()
        in_c, ours = itertools.cycle(sides), itertools.cycle(sides)

        def added_in_c() -> float:
            plain, guarded, _ = next(in_c)
            return max(guarded() - plain(), 1e-9)

        def added_by_ours() -> float:
            plain, _, guarded = next(ours)
            return max(guarded() - plain(), 1e-9)

        return compare(name, added_in_c, added_by_ours, blocks=BLOCKS, limit=limit)


def three_sides(
    stack: contextlib.ExitStack, kind: str, port: int, floor: str, run: tuple[str, ...]
) -> tuple[Side, Side, Side]:
    """Start a process without a supervisor, one under the supervisor in C, and one under ``run``."""
    plain, in_c, ours = (
        stack.enter_context(side("plain", kind, str(port + 2 * number), before=before))
        for number, before in enumerate(((), (floor,), run))
    )
    return plain, in_c, ours


def distribution_python() -> tuple[str, ...] | None:
    """Return the command of the distribution's Python with tailbite on its path; None if it is too old or missing."""
    python = "/usr/bin/python3"
    folders = ":".join(str(Path(module.__file__ or "").parents[1]) for module in (tailbite, click))
    command = ("env", f"PYTHONPATH={folders}", python)
    try:
        subprocess.run([*command, "-m", "tailbite", "--version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return command


def main() -> None:
    """Measure all pairs and print them."""
    enter_private_network()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        floor = build_floor(Path(folder))
        if floor is None:
            left_out("run beside a supervisor in C", "there is no C compiler")
        else:
            try:
                ratios += beside_floor(floor)
            except SideEnded as error:
                left_out("run beside a supervisor in C", str(error))
    ratios.append(
        pair(
            "live connect, beside the smallest hook", "live", INSIDE, "guard()", BESIDE_LEAST_HOOK, beside=LEAST_HOOK
        )
    )
    for guard, promise in PROMISES.items():
        try:
            ratios += [
                pair("live connect, in the range", "live", INSIDE, guard, promise),
                pair("live connect, outside", "live", OUTSIDE, guard),
                pair("refused connect, in the range", "dead", INSIDE, guard),
                pair("open() and close()", "opens", 0, guard),
            ]
        except (FirewallError, SideEnded) as error:
            left_out(guard, str(error))
    report("what a guard costs the guarded program", ratios, promised_for=PROMISED_FOR)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        work(*sys.argv[1:])
    else:
        no_options(__doc__)
        main()
