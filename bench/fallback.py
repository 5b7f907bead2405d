"""Guarded clients where a socket cannot have a port range of its own, beside plain ones.

There were two ways to choose from: hold the port on an address that no server uses while the kernel chooses the
source port, or connect, compare and reset at once. Each is measured beside a plain client, in private network
namespaces, with the option IP_LOCAL_PORT_RANGE switched off where this kernel has it:

- connections that three servers get from one small range of source ports, and whether others can connect then;
- starts of a server on the port that twenty clients connect to fifty times a second, of a hundred tries each;
- self-connects in the trap, and sockets left on the port;
- microseconds per refused connect.

Run: ``python bench/fallback.py``, with ``--json`` for programs. The ways are plain, hold,
library and guard, and for the starts "run without pidfd_getfd" and "run without port ranges".
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import random
import resource
import socket
import subprocess
import sys
import threading
from pathlib import Path
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

import tailbite
from tailbite.connect import facts
from tailbite.core.ports import PortRange
from tailbite.guards.program.port_hold import hold
from tailbite.kernel.namespace import enter_private_network, fresh_network
from tailbite.kernel.sock_diag import SockDiag
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST = "127.0.0.1"
PORT = 32774
SERVERS = [(host, reuse) for host in ("127.0.0.1", "0.0.0.0", "::1", "::") for reuse in (False, True)]
WAYS = ("plain", "hold", "library", "guard")
CLIENTS, PER_SECOND = 20, 50
SMALL = PortRange(40000, 40499)


def connect_plainly(port: int) -> socket.socket:
    """Connect a socket as most programs do."""
    sock = socket.socket()
    try:
        sock.connect((HOST, port))
    except BaseException:
        sock.close()
        raise
    return sock


def connect_holding(port: int) -> socket.socket:
    """Connect a socket while another one holds the destination port."""
    try:
        holder: socket.socket | None = hold(port)
    except OSError:
        holder = None
    try:
        return connect_plainly(port)
    finally:
        if holder is not None:
            holder.close()


def connect_with_library(port: int) -> socket.socket:
    """Connect with tailbite."""
    return tailbite.create_connection((HOST, port))


CONNECTS = {
    "plain": connect_plainly,
    "hold": connect_holding,
    "library": connect_with_library,
    "guard": connect_plainly,
}
LIMITS = {"run without pidfd_getfd": "pidfd_getfd", "run without port ranges": "IP_LOCAL_PORT_RANGE"}
"""Abilities that ``tailbite run`` lacks here: Docker's default profile, and kernels before 6.3."""

EMULATE = Path(__file__).parents[1] / "tests" / "support" / "limits.py"
CLIENTS_OF_RUN = """
import random, socket, sys, threading, time
port, clients, per_second = map(int, sys.argv[1:])
def keep_connecting():
    while True:
        time.sleep(random.uniform(0.5, 1.5) / per_second)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1]).ljust(8, bytes(1)))
            sock.connect_ex(("127.0.0.1", port))
for _ in range(clients):
    threading.Thread(target=keep_connecting, daemon=True).start()
print(flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def listening(port: int) -> Iterator[None]:
    """Accept every connection to ``port`` and keep it."""
    with socket.create_server((HOST, port), backlog=4096) as server:
        kept: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for sock in kept:
                abort(sock)


def capacity(connect: Callable[[int], socket.socket]) -> dict[str, Any]:
    """Connect to three servers until the source ports are used up, at most 2.5 times the range."""
    write_ephemeral_range(SMALL)
    ports = [SMALL.high - 10, SMALL.high - 12, SMALL.high - 14]
    wanted = len(SMALL) * 5 // 2
    made: list[socket.socket] = []
    errors: collections.Counter[int] = collections.Counter()
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(listening(port))
        for number in range(wanted):
            try:
                made.append(connect(ports[number % 3]))
            except OSError as error:
                errors[error.errno or 0] += 1
        other = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1]))).close()"
        done = subprocess.run((sys.executable, "-c", other, str(ports[0])), capture_output=True, check=False)
        for sock in made:
            abort(sock)
    return {"wanted": wanted, "connected": len(made), "errors": dict(errors), "others connect": done.returncode == 0}


def starts(connect: Callable[[int], socket.socket], tries: int) -> dict[str, int]:
    """Start each kind of server ``tries`` times beside the clients; return the number of starts that worked."""
    write_ephemeral_range(PortRange(32768, 60999))
    stop = threading.Event()

    def keep_connecting() -> None:
        while not stop.wait(random.uniform(0.5, 1.5) / PER_SECOND):
            with contextlib.suppress(OSError):
                abort(connect(PORT))

    threads = [threading.Thread(target=keep_connecting) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        return {f"{host}{' SO_REUSEADDR' if reuse else ''}": _started(host, reuse, tries) for host, reuse in SERVERS}
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def starts_beside_run(limit: str, tries: int) -> dict[str, int]:
    """Return what :func:`starts` does, beside clients in one program under ``tailbite run``."""
    write_ephemeral_range(PortRange(32768, 60999))
    command = (sys.executable, str(EMULATE), limit, "--", sys.executable, "-m", "tailbite", "run", "--require", "--")
    clients = (sys.executable, "-c", CLIENTS_OF_RUN, *map(str, (PORT, CLIENTS, PER_SECOND)))
    with subprocess.Popen((*command, *clients), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.readline()
        return {f"{host}{' SO_REUSEADDR' if reuse else ''}": _started(host, reuse, tries) for host, reuse in SERVERS}


def _started(host: str, reuse: bool, tries: int) -> int:
    started = 0
    for _ in range(tries):
        sleep(random.uniform(0, 0.006))
        with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
            try:
                server.bind((host, PORT))
                server.listen(512)
                started += 1
            except OSError:
                continue
    return started


def trap(connect: Callable[[int], socket.socket], tries: int) -> dict[str, Any]:
    """Connect to the dead port of a range of two, where a plain client connects to itself."""
    write_ephemeral_range(PortRange(PORT, PORT + 1))
    itself, began = 0, perf_counter()
    for _ in range(tries):
        with contextlib.suppress(ConnectionRefusedError):
            sock = connect(PORT)
            itself += tailbite.is_self_connected(sock)
            abort(sock)
    spent = perf_counter() - began
    with SockDiag() as diag:
        left = sum(found.endpoints.local.port == PORT for found in diag.dump())
    return {"self-connects": itself, "sockets left": left, "us per connect": round(spent / tries * 1e6, 1)}


def measure(way: str, tries: int, port: int) -> dict[str, Any]:
    """Return the figures of one way, in this process."""
    global PORT
    PORT = port
    if way in LIMITS:
        enter_private_network()
        return {"way": way, "starts": starts_beside_run(LIMITS[way], tries)}
    setattr(facts, "supports_local_port_range", lambda: False)  # noqa: B010 - mypy knows the cached function
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 20_000), most))
    enter_private_network()
    connect = CONNECTS[way]
    if way == "guard":
        tailbite.guard()
    figures: dict[str, Any] = {"way": way}
    with fresh_network():
        figures["trap"] = trap(connect, 10 * tries)
    with fresh_network():
        figures["capacity"] = capacity(connect)
    with fresh_network():
        figures["starts"] = starts(connect, tries)
    return figures


def main() -> None:
    """Measure each way in a process of its own."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("ways", nargs="*", metavar="WAY")
    options.add_argument("--tries", type=int, default=100, help="starts of each kind of server (100)")
    options.add_argument("--port", type=int, default=PORT, help=f"the dead port ({PORT}); an odd one is never chosen")
    options.add_argument("--json", action="store_true", help="one JSON object per line")
    options.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        print(json.dumps(measure(given.ways[0], given.tries, given.port)))
        return
    for way in given.ways or (*WAYS, *LIMITS):
        shared = ("--tries", str(given.tries), "--port", str(given.port))
        command = (sys.executable, __file__, way, "--child", *shared)
        line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        if given.json:
            print(line, end="", flush=True)
            continue
        figures = json.loads(line)
        print(way)
        for name in ("trap", "capacity"):
            if name in figures:
                print(f"  {name:<10} {figures[name]}", flush=True)
        print(f"  starts of {given.tries}  {figures['starts']}", flush=True)


if __name__ == "__main__":
    main()
