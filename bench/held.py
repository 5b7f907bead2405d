"""Connects of a program whose port ``tailbite run`` holds, while the program hardly gets a CPU: none to itself.

On systems where ``run`` cannot steer (Docker's default profile, before Linux 6.3) it keeps the destination port from
being chosen until the call has its source port. The call may run long after the supervisor let it continue:

- ``nice``: at the lowest priority, beside two storms of connects;
- ``quota``: under a CPU quota, here 5 ms in 100 ms, beside the same storms outside of it (root, and a control group
  of its own, version 1 or 2);
- ``killed``: at a low priority, beside the same storms, while the worker that holds the port is killed every 20 ms;
- ``replaced``: the same where ``tailbite`` stays the program's parent: its supervisor is killed.

Each is done in two ranges of source ports. In one of two ports every connect needs the hold. In one of 500 ports the
supervisor looks ahead, and the storms move the kernel's sequence, as they dial the same dead port from the same
address. A plain client connects to itself in the same namespace before and after.

Run: ``python bench/held.py``, with ``--connects N``, ``--json`` for programs, ``--storm-nice N`` to leave some CPU to
others, ``--without NAME`` for another limit of tests/support/limits.py. Exit status 1 if a guarded client was
connected to itself or a control was not, 4 if no control group can be made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import TYPE_CHECKING, Any

from tailbite.core.ports import PortRange
from tailbite.kernel.namespace import enter_private_network
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Iterator

WAYS = ("nice", "quota", "killed", "replaced")
KILL_PAUSE = 0.02
RANGES = (2, 500)
RELEASED_S = 20.0
PORT, ELSEWHERE = 40000, 50000
EMULATE = Path(__file__).parents[1] / "tests" / "support" / "limits.py"
PERIOD_US, QUOTA_US = 100_000, 5_000
GROUPS = Path("/sys/fs/cgroup")

CLIENT = """
import socket, sys
itself = refused = 0
for _ in range(int(sys.argv[2])):
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1]).ljust(8, bytes(1)))
        if sock.connect_ex(("127.0.0.1", int(sys.argv[1]))) == 0:
            itself += sock.getsockname() == sock.getpeername()
        else:
            refused += 1
print(itself, refused)
"""
FOREVER = 10**9


def client(port: int, connects: int) -> list[str]:
    """Return the command of a client that connects as fast as it can."""
    return [sys.executable, "-c", CLIENT, str(port), str(connects)]


def count(command: list[str], **more: Any) -> tuple[int, int]:
    """Run a client; return how often it was connected to itself, and how often it was refused."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **more)
    itself, refused = map(int, done.stdout.split())
    return itself, refused


@contextlib.contextmanager
def storms(port: int, nice: int) -> Iterator[None]:
    """Two plain clients that never stop."""
    running = [
        subprocess.Popen(["nice", "-n", str(nice), *client(port, FOREVER)], stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def make_group() -> Path | None:
    """Make a control group with a CPU quota; None where that is not possible."""
    name = f"tailbite-held-{Path('/proc/self').resolve().name}"
    settings = {GROUPS / "cpu": {"cpu.cfs_period_us": f"{PERIOD_US}", "cpu.cfs_quota_us": f"{QUOTA_US}"}}
    settings[GROUPS] = {"cpu.max": f"{QUOTA_US} {PERIOD_US}"}
    for parent, files in settings.items():
        group = parent / name
        with contextlib.suppress(OSError):
            group.mkdir()
            with contextlib.suppress(OSError):
                if not (group / "cgroup.procs").exists():
                    raise OSError("this is an ordinary folder, as no version 2 groups are mounted here")
                for file, value in files.items():
                    (group / file).write_text(value, encoding="ascii")
                return group
            group.rmdir()
    return None


@contextlib.contextmanager
def starved(way: str) -> Iterator[list[str]]:
    """Yield what to put before a command so that it hardly gets a CPU.

    Raises:
        OSError: no control group can be made.
    """
    if way != "quota":
        yield ["nice", "-n", "19" if way == "nice" else "5"]
        return
    if (group := make_group()) is None:
        raise OSError("no control group with a CPU quota can be made here")
    try:
        yield ["sh", "-c", 'echo $$ > "$0"; exec "$@"', str(group / "cgroup.procs")]
    finally:
        for _ in range(100):  # a group is busy as long as a process in it has not been waited for
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            sleep(0.05)


class Killer(threading.Thread):
    """Kills the workers of the guard in this network namespace, one after the other, until ``ends`` is set.

    Args:
        way: "killed" kills workers, "replaced" the process above them, which is the supervisor.
    """

    def __init__(self, way: str) -> None:
        super().__init__()
        self.kills = 0
        self._kills_supervisor = way == "replaced"
        self.ends = threading.Event()

    def run(self) -> None:
        while not self.ends.wait(KILL_PAUSE):
            if (monitor := _monitor()) is None:
                continue
            with contextlib.suppress(OSError):
                (self._kill_supervisors if self._kills_supervisor else self._kill_workers_of)(monitor)

    def _kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills += 1

    def _kill_workers_of(self, monitor: Path) -> None:
        """Kill them until the monitor itself has ended."""
        while not self.ends.wait(KILL_PAUSE):
            for worker in _children(monitor):
                self._kill(int(worker))

    def _kill_supervisors(self, supervisor: Path) -> None:
        """Kill it, then the one that stood by, and so on, each as soon as another one stands by."""
        while not self.ends.wait(KILL_PAUSE):
            if children := _children(supervisor):
                self._kill(int(supervisor.name))
                supervisor = Path("/proc", children[0])


def _children(process: Path) -> list[str]:
    """Return the helpers among a process's children."""
    children = (process / "task" / process.name / "children").read_text(encoding="ascii").split()
    return [child for child in children if Path("/proc", child, "comm").read_text() == "tailbite-guard\n"]


def _monitor() -> Path | None:
    here = Path("/proc/self/ns/net").readlink()
    helpers = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, rest = (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")
            if name.endswith("(tailbite-guard") and (process / "ns" / "net").readlink() == here:
                helpers[process.name] = rest.split()[1]
    return next((Path("/proc", parent) for parent in helpers.values() if parent in helpers), None)


def count_while_killing(way: str, command: list[str]) -> tuple[tuple[int, int], dict[str, int]]:
    """Run a guarded client as :func:`count` does while its workers are killed; return how many those were as well."""
    killer = Killer(way)
    killer.start()
    try:
        return count(command), {"kills": killer.kills}
    finally:
        killer.ends.set()
        killer.join()


def measure(way: str, ports: int, given: argparse.Namespace) -> dict[str, Any]:
    """Run one way in one range, in a process of its own."""
    enter_private_network()
    low = PORT if ports == 2 else PORT - ports // 2
    write_ephemeral_range(PortRange(low, low + ports - 1))
    tries = 8 if ports == 2 else 4_000
    start, controls = perf_counter(), [count(client(PORT, tries))[0] > 0]
    with tempfile.TemporaryDirectory() as folder, starved(way) as prefix:
        limited = [*prefix, sys.executable, str(EMULATE), given.without, "--"]
        run = [sys.executable, "-m", "tailbite", "run", "--require"]
        with storms(ELSEWHERE if ports == 2 else PORT, given.storm_nice):
            if way in ("killed", "replaced"):
                run += ["--stats-json", "/dev/null"] if way == "replaced" else []  # which makes it the parent
                command = [*limited, *run, "--", *client(PORT, given.connects)]
                (itself, refused), counted = count_while_killing(way, command)
            else:
                stats = Path(folder, "stats.json")
                run += ["--stats-json", str(stats), "--"]
                itself, refused = count([*limited, *run, *client(PORT, given.connects)])
                connects = json.loads(stats.read_text(encoding="utf-8"))["connects"]
                counted = {name: connects[name] for name in ("held", "out_of_reach")}
    until = monotonic() + RELEASED_S  # the supervisor may end after the program, and holds the port until then
    while not (does := count(client(PORT, tries))[0] > 0) and monotonic() < until:
        sleep(0.01)
    controls.append(does)
    figures = {"way": way, "ports": ports, "connects": given.connects, "self-connects": itself, "refused": refused}
    return {**figures, **counted, "controls": controls, "seconds": round(perf_counter() - start)}


def main() -> int:
    """Run each way in each range; return the exit status."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("ways", nargs="*", metavar="WAY", help=", ".join(WAYS))
    options.add_argument("--connects", type=int, default=10_000)
    options.add_argument("--ports", type=int, action="append", help=f"{' and '.join(map(str, RANGES))}")
    options.add_argument("--storm-nice", type=int, default=0)
    options.add_argument("--without", default="pidfd_getfd", metavar="NAME")
    options.add_argument("--json", action="store_true", help="one JSON object per line")
    options.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.measure:
        try:
            print(json.dumps(measure(given.ways[0], given.ports[0], given)))
        except OSError as error:
            print(error, file=sys.stderr)
            return 4
        return 0
    status = 0
    for way in given.ways or WAYS:
        for ports in given.ports or RANGES:
            status = max(status, _in_a_process(way, ports, given))
    return status


def _in_a_process(way: str, ports: int, given: argparse.Namespace) -> int:
    shared = ["--connects", f"{given.connects}", "--storm-nice", f"{given.storm_nice}", "--without", given.without]
    command = [sys.executable, __file__, way, "--ports", f"{ports}", *shared, "--measure"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return done.returncode
    figures = json.loads(done.stdout)
    is_kept = figures["self-connects"] == 0 and figures["refused"] == given.connects and all(figures["controls"])
    print(done.stdout.strip() if given.json else f"{way}, {ports} ports: {figures}", flush=True)
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
