"""The story's loop at full speed and counted: connect to a dead port until the socket is connected to itself.

Every attempt is a real connect(2) in the process's own network namespace. The source port that was tried is known
even after ECONNREFUSED: getsockname(2) still tells it. A self-connect is counted, reset, and the loop goes on.

All who dial one destination from one address share the kernel's sequence of source ports, in whatever namespace they
are: the sequence is keyed by addresses and destination port alone. So every worker dials an address of its own.
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
from tailbite.kernel.prctl import die_with_parent
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range
from tailbite.lab.record import NotARecord, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

__all__ = ["LoopSettings", "Tally", "WorkerFailed", "from_record", "run_loop", "to_record"]

_BATCH = 20_000
_BINS = 64
_MOST_STRIDE = 64
_SIOCSIFADDR = 0x8916


class WorkerFailed(RuntimeError):  # noqa: N818 - it says what happened
    """A measuring process ended before it was done; the text says why."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What to measure.

    Attributes:
        port: the dead port.
        ephemeral: the range to draw from.
        hits: self-connects to see, by all workers together.
        attempts: stop a worker after this many attempts, hits or not.
        binds_first: bind to port 0 before each connect.
        ipv6: dial an IPv6 address.
        workers: processes that dial at the same time.
    """

    port: int
    ephemeral: PortRange
    hits: int
    attempts: int
    binds_first: bool = False
    ipv6: bool = False
    workers: int = 1

    def share(self, worker: int) -> int:
        """Return how many hits this worker is to see.

        Fixed beforehand: if all stopped when the last hit of all came, long waits would be cut off more often than
        short ones, and the mean would be too small.
        """
        return self.hits // self.workers + (worker < self.hits % self.workers)


@dataclass(slots=True)
class Tally:
    """What one worker saw.

    Attributes:
        worker: its number.
        address: the address it dialled, and came from.
        attempts: how many connects it made.
        hits: attempts to each self-connect: from the start to the first, then from one to the next.
        strides: how often the source port moved on by this much, wrapped around the range; 0 is anything larger.
        even: draws of even ports.
        odd: draws of odd ports.
        bins: draws in each 64th of the range.
        errors: attempts that ended otherwise than refused or connected to itself.
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
        """Add a batch of drawn ports; ``before`` is the draw just before it."""
        size = len(ephemeral) & ~1 or 1
        width = len(ephemeral) / _BINS
        self.attempts += len(ports)
        odd = sum(port & 1 for port in ports)
        self.odd += odd
        self.even += len(ports) - odd
        for number, draws in Counter(int((port - ephemeral.low) / width) for port in ports).items():
            self.bins[min(number, _BINS - 1)] += draws
        previous = ports if before is None else array("i", [before, *ports])
        for stride, times in Counter((after - ahead) % size for ahead, after in itertools.pairwise(previous)).items():
            self.strides[stride if stride <= _MOST_STRIDE else 0] += times


def to_record(settings: LoopSettings, tallies: list[Tally]) -> Record:
    """Return the lines to store."""
    header = {**asdict(settings), "ephemeral": str(settings.ephemeral)}
    rows = [{**asdict(tally), "strides": sorted(tally.strides.items())} for tally in tallies]
    return Record("loop", header, tuple(rows))


def from_record(record: Record) -> tuple[LoopSettings, list[Tally]]:
    """Return what :func:`to_record` stored.

    Raises:
        NotARecord: a field is missing or makes no sense.
    """
    try:
        wanted = {field.name: record.header[field.name] for field in fields(LoopSettings)}
        settings = LoopSettings(**{**wanted, "ephemeral": PortRange.parse(wanted["ephemeral"])})
        return settings, [Tally(**{**row, "strides": Counter(dict(row["strides"]))}) for row in record.rows]
    except (KeyError, TypeError, ValueError) as error:
        raise NotARecord(f"the record is damaged ({error})") from error


def run_loop(settings: LoopSettings, progress: Callable[[int, int], None]) -> list[Tally]:
    """Measure in processes of their own and return what each saw; this process must be in a private network.

    Args:
        settings: what to measure.
        progress: is called with the self-connects and the attempts so far.

    Raises:
        WorkerFailed: a worker could not go on, and why.
        OSError: the namespace's range or addresses cannot be set.
    """
    write_ephemeral_range(settings.ephemeral)
    addresses = [_address(number, settings.ipv6) for number in range(settings.workers)]
    context = multiprocessing.get_context("fork")
    channels: dict[Connection, int] = {}
    workers = []
    try:
        for number, address in enumerate(addresses):
            here, there = context.Pipe(duplex=False)
            worker = context.Process(target=_work, args=(settings, number, address, there), daemon=True)
            worker.start()
            there.close()
            channels[here] = number
            workers.append(worker)
        latest = _gather(channels, progress)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    return [latest[number] for number in sorted(latest)]


def _gather(channels: dict[Connection, int], progress: Callable[[int, int], None]) -> dict[int, Tally]:
    latest: dict[int, Tally] = {}
    done: set[int] = set()
    while len(done) < len(channels):
        for ready in multiprocessing.connection.wait([c for c, number in channels.items() if number not in done]):
            assert isinstance(ready, multiprocessing.connection.Connection)
            try:
                message = ready.recv()
            except EOFError:
                raise WorkerFailed(f"measuring process {channels[ready]} ended before it was done") from None
            if isinstance(message, str):
                raise WorkerFailed(message)
            tally, is_done = message
            latest[tally.worker] = tally
            if is_done:
                done.add(tally.worker)
        progress(sum(len(tally.hits) for tally in latest.values()), sum(t.attempts for t in latest.values()))
    return latest


def _address(number: int, ipv6: bool) -> str:
    """Return an address of this namespace that no other worker dials; the first is the one everybody dials."""
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


def _work(settings: LoopSettings, number: int, address: str, channel: Connection) -> None:
    """Be a worker: dial until the share of hits is reached, and report every batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    with contextlib.suppress(OSError):
        die_with_parent()
    tally = Tally(number, address)
    share = settings.share(number)
    try:
        for ports, before in _dial(settings, address, tally, share):
            tally.count(ports, before, settings.ephemeral)
            is_done = len(tally.hits) >= share or tally.attempts >= settings.attempts
            channel.send((tally, is_done))
            if is_done:
                return
    except OSError as error:
        channel.send(f"a connect to port {settings.port} failed: {error.strerror}")


def _dial(settings: LoopSettings, address: str, tally: Tally, share: int) -> Iterator[tuple[array[int], int | None]]:
    """Yield batches of source ports, with the port drawn before each."""
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
            # A refused socket can be connected again, and draws anew; making a new one would take twice the time.
            result = sock.connect_ex(target)
            ports.append(sock.getsockname()[1])
            since += 1
            if result == 0:
                if sock.getsockname() == sock.getpeername():
                    tally.hits.append(since)
                    since = 0
                else:
                    raise OSError(errno.EISCONN, "somebody listens there")
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
