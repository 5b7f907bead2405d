"""The reconnect loop at full speed, with counts: connect to a dead port until the socket is connected to itself.

Every attempt is a real connect(2) in the process's own network namespace. The source port is known even after
ECONNREFUSED: getsockname(2) still returns it. A self-connect is counted and reset, and the loop continues.

All clients that connect to one destination from one address share the kernel's sequence of source ports, across all
namespaces: its key consists of the addresses and the destination port. So every worker connects to its own address.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import multiprocessing
import multiprocessing.connection
import signal
import socket
import struct
from array import array
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING

from tailbite.core.ports import PortRange
from tailbite.core.selection import Selection
from tailbite.kernel.prctl import die_with_parent
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range
from tailbite.lab.record import NotARecord, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

__all__ = ["ExperimentSettings", "LoopTally", "WorkerFailed", "loop_from_record", "loop_to_record", "run_loop"]

_BATCH = 20_000
_BINS = 64
_MOST_STRIDE = 64
_SIOCSIFADDR = 0x8916


class WorkerFailed(RuntimeError):  # noqa: N818 - named like BlockingIOError
    """A measuring process ended too early; the text says why."""


@dataclass(frozen=True, slots=True)
class ExperimentSettings:
    """Settings of a loop.

    Attributes:
        port: the dead port.
        ephemeral: the ephemeral range.
        hits: number of self-connects to wait for, by all workers together.
        attempts: largest number of attempts of each worker.
        binds_first: bind to port 0 before each connect.
        ipv6: connect to an IPv6 address.
        workers: number of processes that connect at the same time.
        system: label of the :class:`~tailbite.core.selection.Selection` that the model assumes.
    """

    port: int
    ephemeral: PortRange
    hits: int
    attempts: int
    binds_first: bool = False
    ipv6: bool = False
    workers: int = 1
    system: str = Selection.STRIDES.label

    def share(self, worker: int) -> int:
        """Return the number of self-connects that this worker waits for.

        The number is fixed beforehand: if all workers stopped at the last of all self-connects, long waits would be
        cut off more often than short ones, and the mean would be too small.
        """
        return self.hits // self.workers + (worker < self.hits % self.workers)


@dataclass(slots=True)
class LoopTally:
    """Counts of one worker.

    Attributes:
        worker: number of the worker.
        address: source and destination address of its connects.
        attempts: number of connects.
        hits: attempts to each self-connect: from the start to the first, then from each to the next.
        strides: number of steps of the source port by this distance, modulo the range; 0 counts all longer steps.
        even: number of even source ports.
        odd: number of odd source ports.
        bins: number of source ports in each 64th of the range.
        errors: attempts that failed with another error than ECONNREFUSED.
    """

    worker: int
    address: str
    attempts: int = 0
    hits: list[int] = field(default_factory=list)
    strides: Counter[int] = field(default_factory=Counter)
    even: int = 0
    odd: int = 0
    bins: list[int] = field(default_factory=lambda: [0] * _BINS)
    errors: int = 0

    def count(self, ports: array[int], before: int | None, ephemeral: PortRange) -> None:
        """Add a batch of source ports; ``before`` is the source port just before the batch."""
        size = len(ephemeral) & ~1 or 1
        width = len(ephemeral) / _BINS
        self.attempts += len(ports)
        odd = sum(port & 1 for port in ports)
        self.odd += odd
        self.even += len(ports) - odd
        for number, times in Counter(int((port - ephemeral.low) / width) for port in ports).items():
            self.bins[min(number, _BINS - 1)] += times
        previous = ports if before is None else array("i", [before, *ports])
        for stride, times in Counter((after - ahead) % size for ahead, after in itertools.pairwise(previous)).items():
            self.strides[stride if stride <= _MOST_STRIDE else 0] += times


def loop_to_record(settings: ExperimentSettings, tallies: list[LoopTally]) -> Record:
    """Return the record to store."""
    header = {**asdict(settings), "ephemeral": str(settings.ephemeral)}
    rows = [{**asdict(tally), "strides": sorted(tally.strides.items())} for tally in tallies]
    return Record("loop", header, tuple(rows))


def loop_from_record(record: Record) -> tuple[ExperimentSettings, list[LoopTally]]:
    """Return the settings and counts that :func:`loop_to_record` stored.

    Raises:
        NotARecord: a field is missing or has an invalid value.
    """
    try:
        names = [each.name for each in fields(ExperimentSettings)]
        values = {name: record.header[name] for name in names if name != "system" or name in record.header}
        settings = ExperimentSettings(**{**values, "ephemeral": PortRange.parse(values["ephemeral"])})
        return settings, [LoopTally(**{**row, "strides": Counter(dict(row["strides"]))}) for row in record.rows]
    except (KeyError, TypeError, ValueError) as error:
        raise NotARecord(f"the record is damaged ({error})") from error


def run_loop(settings: ExperimentSettings, progress: Callable[[int, int], None]) -> list[LoopTally]:
    """Measure in worker processes and return the counts of each; this process must be in a private network.

    Args:
        settings: the experiment.
        progress: called with the number of self-connects and of attempts so far.

    Raises:
        WorkerFailed: a worker could not continue; the text says why.
        OSError: the namespace's range or addresses cannot be set.
    """
    write_ephemeral_range(settings.ephemeral)
    addresses = [_worker_address(number, settings.ipv6) for number in range(settings.workers)]
    context = multiprocessing.get_context("fork")
    channels: dict[Connection, int] = {}
    workers = []
    try:
        for number, address in enumerate(addresses):
            here, there = context.Pipe(duplex=False)
            worker = context.Process(target=_run_worker, args=(settings, number, address, there), daemon=True)
            with _later_ctrl_c():
                worker.start()
                workers.append(worker)
            there.close()
            channels[here] = number
        latest = _gather(channels, progress)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    return [latest[number] for number in sorted(latest)]


def _gather(channels: dict[Connection, int], progress: Callable[[int, int], None]) -> dict[int, LoopTally]:
    latest: dict[int, LoopTally] = {}
    done: set[int] = set()
    while len(done) < len(channels):
        for ready in multiprocessing.connection.wait([c for c, number in channels.items() if number not in done]):
            assert isinstance(ready, multiprocessing.connection.Connection)
            try:
                message = ready.recv()
            except EOFError:
                raise WorkerFailed(f"measuring process {channels[ready]} ended too early") from None
            if isinstance(message, str):
                raise WorkerFailed(message)
            tally, is_done = message
            latest[tally.worker] = tally
            if is_done:
                done.add(tally.worker)
        progress(sum(len(tally.hits) for tally in latest.values()), sum(t.attempts for t in latest.values()))
    return latest


def _worker_address(number: int, ipv6: bool) -> str:
    """Return an address that no other worker uses; the first worker uses the usual loopback address."""
    if number == 0:
        return "::1" if ipv6 else "127.0.0.1"
    if ipv6:
        return _add_ipv6(number)
    address = f"10.73.{number >> 8}.{number & 0xFF}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH2x4s8x", f"lo:{number}".encode(), socket.AF_INET, socket.inet_aton(address))
        fcntl.ioctl(sock, _SIOCSIFADDR, request)
    return address


def _add_ipv6(number: int) -> str:
    """Add fd73::N to ``lo``: struct in6_ifreq, include/uapi/linux/ipv6.h."""
    address = f"fd73::{number:x}"
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        request = struct.pack("=16sIi", socket.inet_pton(socket.AF_INET6, address), 128, socket.if_nametoindex("lo"))
        fcntl.ioctl(sock, _SIOCSIFADDR, request)
    return address


@contextlib.contextmanager
def _later_ctrl_c() -> Iterator[None]:
    """Have a Ctrl-C wait that comes while a worker is started, which ignores the signal only once it runs."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _run_worker(settings: ExperimentSettings, number: int, address: str, channel: Connection) -> None:
    """Run a worker: connect until its share of self-connects is reached, and report every batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with contextlib.suppress(OSError):
        die_with_parent()
    tally = LoopTally(number, address)
    share = settings.share(number)
    try:
        for ports, before in _connect_in_batches(settings, address, tally, share):
            tally.count(ports, before, settings.ephemeral)
            is_done = len(tally.hits) >= share or tally.attempts >= settings.attempts
            channel.send((tally, is_done))
            if is_done:
                return
    except OSError as error:
        channel.send(f"a connect to port {settings.port} failed: {error.strerror}")


def _connect_in_batches(
    settings: ExperimentSettings, address: str, tally: LoopTally, share: int
) -> Iterator[tuple[array[int], int | None]]:
    """Yield batches of source ports, and the source port before each batch."""
    family = socket.AF_INET6 if settings.ipv6 else socket.AF_INET
    target = (address, settings.port)
    binds_first, refused = settings.binds_first, errno.ECONNREFUSED
    since = 0
    before: int | None = None
    sock = socket.socket(family)
    while True:
        ports = array("i")
        for _ in range(min(_BATCH, settings.attempts - tally.attempts)):
            if binds_first:
                sock = socket.socket(family)
                sock.bind((address, 0))
            # A refused socket can connect again, with a new source port; a new socket would take twice the time.
            result = sock.connect_ex(target)
            ports.append(sock.getsockname()[1])
            since += 1
            if result == 0:
                if sock.getsockname() == sock.getpeername():
                    tally.hits.append(since)
                    since = 0
                else:
                    raise OSError(errno.EISCONN, "a server listens there")
                abort(sock)
                sock = socket.socket(family)
                if len(tally.hits) >= share:
                    break
            elif result != refused:
                tally.errors += 1
                if result != errno.EADDRNOTAVAIL:
                    raise OSError(result, errno.errorcode.get(result, str(result)))
            if binds_first:
                sock.close()
        yield ports, before
        before = ports[-1]
