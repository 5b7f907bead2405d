"""The cost of watching: namespaces, event sources, the exporter, memory; and how soon --kill frees a port.

Runs as root in private network, PID and mount namespaces, so that it sees its own namespaces alone. Promised: a scan
with 100 namespaces without sockets takes at most 1.3 times the CPU of a scan of one namespace; 50 000 connects in a
second cost at most 2 % of a CPU in the eBPF program; the exporter's inspections take at most 0.5 % of a CPU with 100
namespaces and 100 000 sockets, and 2 % with a million; its scrapes take 5 ms, its memory 40 MiB; a million events do
not grow it.

Run: ``python bench/watch.py [--sockets N] [--kills N] [--events N]``
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from paired import Ratio, compare, left_out, report

from tailbite.core.address import Endpoint
from tailbite.core.ports import PortRange
from tailbite.host.see.namespaces import current_namespace
from tailbite.kernel.destroy_events import DestroyEvents
from tailbite.kernel.established_events import EstablishedEvents
from tailbite.kernel.namespace import CLONE_NEWNET, bring_up, unshare
from tailbite.kernel.prctl import die_with_parent
from tailbite.kernel.sysctl import write_ephemeral_range
from tailbite.watch.inspector import Inspector
from tailbite.watch.records import Moment, SelfConnectEvent, SourceKind, SourceState
from tailbite.watch.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable

NAMESPACES = 100
DEAD_PORT, SERVER_PORT, TRAP_PORT = 4711, 8000, 32246
CONNECTS = 10_000
PAUSE_S = 0.001
BPF_ENABLE_STATS = 32
MANY_SOCKETS = 1_000_000


def isolate() -> None:
    """Run this script again in namespaces of its own; return there."""
    if "TAILBITE_BENCH" in os.environ:
        bring_up()
        return
    if os.geteuid() != 0:
        sys.exit("bench/watch.py needs root: eBPF, and namespaces of other processes")
    os.environ["TAILBITE_BENCH"] = "1"
    os.execvp("unshare", ["unshare", "-npmf", "--mount-proc", sys.executable, *sys.argv])


def namespaces(number: int, *, connected: bool) -> list[int]:
    """Start processes in a namespace each, with or without a connection; return their pids."""
    return [_fork_into_namespace(connected=connected) for _ in range(number)]


def _fork_into_namespace(*, connected: bool) -> int:
    done, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        unshare(CLONE_NEWNET)
        bring_up()
        held = []
        if connected:
            server = socket.create_server(("127.0.0.1", SERVER_PORT))
            held = [server, socket.create_connection(("127.0.0.1", SERVER_PORT)), server.accept()[0]]
        os.write(tell, b"+" * min(len(held) + 1, 4))
        signal.pause()
    os.close(tell)
    os.read(done, 1)
    os.close(done)
    return pid


def end(pids: list[int]) -> None:
    """End the processes, and with them their namespaces."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def cpu_of(*arguments: str) -> Callable[[], float]:
    """Return what runs a command of tailbite and returns its seconds of CPU."""

    def run() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "tailbite", *arguments], capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return run


def look_around() -> list[Ratio]:
    """Compare inspections of many namespaces with those of one."""
    own = ("--netns", "self", "--json")
    figures = []
    for connected, name, limit in ((False, "without sockets", 1.3), (True, "with a connection", None)):
        pids = namespaces(NAMESPACES, connected=connected)
        for command in ("scan", "doctor"):
            figures.append(
                compare(
                    f"{command}: one namespace, {NAMESPACES} more {name}",
                    cpu_of(command, *own),
                    cpu_of(command, "--json"),
                    blocks=10,
                    limit=limit if command == "scan" else None,
                )
            )
        end(pids)
    return figures


def refused_connects(number: int) -> None:
    """Dial a dead port."""
    for _ in range(number):
        with socket.socket() as sock:
            sock.connect_ex(("127.0.0.1", DEAD_PORT))


def program_cost() -> Ratio:
    """Measure the eBPF program by the kernel's own clock: nanoseconds for 50 000 connects, against a second."""
    statistics_on = _bpf_statistics()
    with EstablishedEvents() as events:
        refused_connects(CONNECTS)
        spent = sum(int(value) for value in _fdinfo("run_time_ns"))
        del events
    os.close(statistics_on)
    share = spent / CONNECTS * 50_000 / 1e9
    name = "eBPF program, 50 000 refused connects/s: part of a CPU"
    return Ratio(name, 1e6, round(share * 1e6, 2), round(share, 5), round(share, 5), round(share, 5), limit=0.02)


def _bpf_statistics() -> int:
    number = {"x86_64": 321}.get(os.uname().machine, 280)
    attributes = ctypes.create_string_buffer(4)
    descriptor: int = ctypes.CDLL(None).syscall(number, BPF_ENABLE_STATS, attributes, 4)
    if descriptor < 0:
        sys.exit("this kernel does not measure BPF programs (BPF_ENABLE_STATS, Linux 5.8)")
    return descriptor


def _fdinfo(field: str) -> list[str]:
    folder = Path("/proc/self/fdinfo")
    texts = [path.read_text() for path in folder.iterdir() if path.exists()]
    return [found[1] for text in texts if (found := re.search(rf"^{field}:\s*(\d+)", text, re.MULTILINE))]


def busy_seconds() -> float:
    """Return the seconds that all CPUs have worked since the start of the machine."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def source_costs() -> list[Ratio]:
    """Compare refused connects with and without a source, by the CPU time of the whole machine."""

    def machine(source: Callable[[], object] | None) -> Callable[[], float]:
        def run() -> float:
            kept = source() if source is not None else None
            before = busy_seconds()
            refused_connects(CONNECTS)
            time.sleep(0.05)  # what was left to a work queue
            spent = busy_seconds() - before
            if kept is not None:
                kept.close()  # type: ignore[attr-defined]
            return max(spent, 0.01) / CONNECTS

        return run

    return [
        compare(f"refused connect, whole machine: {name}", machine(None), machine(source), blocks=12)
        for name, source in (("nothing twice", None), ("bpf", EstablishedEvents), ("destroy", DestroyEvents))
    ]


def kills(number: int) -> dict[str, str]:
    """Self-connect again and again under ``tailbite watch --kill``; time it until a server can bind the port."""
    write_ephemeral_range(PortRange(TRAP_PORT, TRAP_PORT + 1))
    command = [sys.executable, "-m", "tailbite", "watch", "--netns", "self", "--kill", "--json"]
    took = []
    said = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as watch:
        assert watch.stdout is not None
        watch.stdout.readline()
        os.set_blocking(watch.stdout.fileno(), False)
        for _ in range(number):
            took.append(_until_free())
            said += watch.stdout.read() or b""
        watch.terminate()
        os.set_blocking(watch.stdout.fileno(), True)
        said += watch.stdout.read()
    write_ephemeral_range(PortRange(32768, 60999))
    results = [event["end"] for event in map(json.loads, said.splitlines()) if event.get("moment") == "established"]
    destroyed = [result["microseconds"] / 1e6 for result in results if result and result["is_destroyed"]]
    return {
        f"from ESTABLISHED to destroyed, {len(destroyed)} self-connects under --kill": _spread(destroyed),
        "from the return of connect() to a bound server that tries every 1 ms": _spread(took),
    }


def _spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    p99 = ordered[max(int(len(ordered) * 0.99) - 1, 0)]
    figures = {"median": statistics.median(ordered), "p99": p99, "longest": ordered[-1]}
    return ", ".join(f"{name} {value * 1e3:.2f} ms" for name, value in figures.items())


def _until_free() -> float:
    client = socket.socket()
    while client.connect_ex(("127.0.0.1", TRAP_PORT)):
        client.close()
        client = socket.socket()
    start = time.perf_counter()
    while True:
        with socket.socket() as server:
            try:
                server.bind(("127.0.0.1", TRAP_PORT))
                server.listen()
            except OSError:
                time.sleep(PAUSE_S)
                continue
            took = time.perf_counter() - start
        client.close()
        return took


class Storm:
    """A source with an event each time it is asked."""

    kind = SourceKind.BPF
    descriptors: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.number = 0
        self._place = current_namespace()

    def read_events(self, now: float) -> list[SelfConnectEvent]:
        """Return a hundred events, each at another endpoint."""
        self.number += 100
        return [self._event(number) for number in range(self.number - 100, self.number)]

    def _event(self, number: int) -> SelfConnectEvent:
        end = Endpoint(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", number % 65535 + 1)
        return SelfConnectEvent(0.0, Moment.ESTABLISHED, self.kind, end, socket.AF_INET, self._place)

    def state(self) -> SourceState:
        """Return that nothing is lost."""
        return SourceState(self.kind)

    def close(self) -> None:
        """Do nothing."""


def memory_kib() -> int:
    """Return the resident memory of this process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def growth(number: int) -> Ratio:
    """Feed a watch with events, about 24 hours of a busy machine; compare its memory after a tenth and at the end."""
    source = Storm()
    watch = Watcher(source, Inspector(only_own=True, every=1e6))
    while source.number < number // 10:
        watch.wait(0.0)
    before = memory_kib()
    while source.number < number:
        watch.wait(0.0)
    ratio = memory_kib() / before
    name = f"memory after {number // 10:,} and after {number:,} events"
    rounded = round(ratio, 5)
    return Ratio(name, before, memory_kib(), rounded, rounded, rounded, limit=1.05, unit="KiB")


def exporter_budget(sockets: int) -> tuple[list[Ratio], dict[str, str]]:
    """Measure three minutes of inspections, a scrape, and the memory, with many namespaces and sockets."""
    from prometheus_client import generate_latest
    from scan import connections

    from tailbite.watch.exporter import Exporter

    holders = list(connections(sockets // 2, 7))
    pids = namespaces(NAMESPACES, connected=True)
    inspector = Inspector(cpu_clock=time.thread_time)
    exporter = Exporter(Watcher(Storm(), inspector))
    rounds = [inspector.inspect_round(15.0 * turn) for turn in range(13)][1:]  # the first visits them all
    spent = sum(one.cpu for one in rounds)
    exporter.state.take_round(rounds[-1])
    scrapes = []
    for _ in range(50):
        start = time.perf_counter()
        generate_latest(exporter.registry)
        scrapes.append(time.perf_counter() - start)
    length = 15.0 * len(rounds)
    share, scrape = spent / length, statistics.median(scrapes)
    what = f"{NAMESPACES} namespaces, {sockets:,} sockets"
    figures = [
        Ratio(
            f"inspections: part of a CPU, {what}",
            length * 1e6,
            round(spent * 1e6, 2),
            round(share, 5),
            round(share, 5),
            round(share, 5),
            limit=0.005 if sockets < MANY_SOCKETS else 0.02,
        ),
        Ratio("a scrape", 0, round(scrape * 1e6, 2), 1.0, 1.0, 1.0, most_us=5000),
        _memory_of_exporter(),
    ]
    deferred = ", ".join(str(one.deferred) for one in rounds)
    end(pids + holders)
    return figures, {"namespaces that were deferred in each round": deferred}


def _memory_of_exporter() -> Ratio:
    command = [sys.executable, "-m", "tailbite", "exporter", "--web.listen-address", "127.0.0.1:9745"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(3)
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        process.terminate()
        process.stdout.read()
    assert found is not None
    kib = int(found[1])
    ratio = round(kib / 40960, 5)
    return Ratio("memory of the exporter, beside 40 MiB", 40960, kib, ratio, ratio, ratio, limit=1.0, unit="KiB")


def main() -> None:
    """Measure, and exit with status 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(description="Measure what watching costs.")
    parser.add_argument("--sockets", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--events", type=int, default=1_000_000)
    options = parser.parse_args()
    isolate()
    figures = look_around()
    figures += [program_cost(), *source_costs(), growth(options.events)]
    more = kills(options.kills)
    if options.sockets:
        budget, told = exporter_budget(options.sockets)
        figures += budget
        more |= told
    else:
        left_out("the exporter's budget", "--sockets 0")
    report("watching a machine", figures, **more)


if __name__ == "__main__":
    main()
