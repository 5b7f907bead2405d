"""Self-connects of the whole machine at the moment they are established, by an eBPF program at a tracepoint.

The tracepoint ``sock:inet_sock_set_state`` (Linux 4.16) fires for every change of a TCP socket's state, in every
network namespace. The program compares five things and drops the rest, which is nearly all: about 0.1 us for each
change of state. A self-connect becomes ESTABLISHED inside connect(2): its SYN crosses itself on loopback while the
caller waits. So the current process is the one that dialled, unless loopback delivers the last segment later: on a
very busy machine, or where ``lo`` has a queue, the kernel receives it in a thread of its own, or in a softirq that
interrupts any process.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from tailbite.core.address import Endpoint, canonical_host
from tailbite.kernel.bpf import (
    EbpfInstruction,
    Helper,
    MapType,
    add_to_memory,
    add_value,
    assemble,
    call_helper,
    create_map,
    end,
    jump_if_different,
    jump_if_value,
    jump_unless_value,
    load_map,
    load_memory,
    load_program,
    load_value,
    move,
    place_label,
    read_map,
    read_misses,
    store_register,
    store_value,
    write_map,
)
from tailbite.kernel.inet_diag import TcpState
from tailbite.kernel.perf_event import PerfBuffer, cpu_numbers
from tailbite.kernel.tracepoint import Format, attach_program, read_format

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["Established", "EstablishedEvents", "PidNamespace", "decode_record", "established_program"]

_CATEGORY, _NAME = "sock", "inet_sock_set_state"
_ADDRESS_LENGTH = 16
_CURRENT_CPU: Final = 0xFFFFFFFF  # BPF_F_CURRENT_CPU
_INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h

# The record that the program builds on its stack: time, thread and process as the machine numbers them, thread and
# process as our own pid namespace does, family, port, address, name of the thread.
_RECORD = struct.Struct("=QIIIIHH4x16s16s")
_TIME, _PID, _PID_HERE, _FAMILY, _PORT, _ADDRESS, _COMM = 0, 8, 16, 24, 26, 32, 48
_KEY = _RECORD.size + 4  # of the map of counts, below the record
_RECORD_AT = -_RECORD.size  # from the end of the stack
_CONTEXT, _COUNT = 6, 7  # registers that survive calls: the tracepoint's record, and the address of the counts
_OF_THE_KERNEL: Final = ("ksoftirqd/", "swapper/")
"""Threads in which a segment is received that loopback delivers late: none of them dialled."""
_COUNTS = struct.Struct("=QQ")  # self-connects seen; those of them that a full buffer had no place for


@dataclass(frozen=True, slots=True)
class Established:
    """A socket that has just been connected to itself.

    Attributes:
        monotonic_ns: when, nanoseconds of CLOCK_MONOTONIC.
        family: AF_INET or AF_INET6, as the socket was made.
        endpoint: both ends of the connection.
        pid: the process that ran, which is the one that dialled unless loopback delivered late; 0 if it is not
            visible from our own pid namespace, or if the kernel received the last segment in a thread of its own.
        name: the name of the thread that ran, at most 15 bytes; empty if it was the kernel's.
    """

    monotonic_ns: int
    family: int
    endpoint: Endpoint
    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class PidNamespace:
    """Our own pid namespace, for the kernel to number processes in (bpf-helpers(7)).

    Attributes:
        device: of the filesystem of namespaces, as the kernel encodes it.
        inode: number of the namespace.
    """

    device: int
    inode: int

    @classmethod
    def current(cls) -> PidNamespace:
        """Return that of this process.

        Raises:
            OSError: /proc cannot be read.
        """
        found = os.stat("/proc/self/ns/pid")  # noqa: PTH116
        return cls(os.major(found.st_dev) << 20 | os.minor(found.st_dev), found.st_ino)

    @property
    def is_initial(self) -> bool:
        """True for the machine's own, whose numbers every program gets."""
        return self.inode == _INITIAL_PID_NAMESPACE


def established_program(
    layout: Format, counts: int, records: int, pids: PidNamespace | None = None
) -> tuple[EbpfInstruction, ...]:
    """Return the program that reports every TCP socket which becomes ESTABLISHED with itself. Pure.

    Args:
        layout: the tracepoint as this kernel has it.
        counts: descriptor of the map of counts, an array of one value of 16 bytes.
        records: descriptor of the map of the CPUs' buffers.
        pids: number processes in this namespace too (Linux 5.7); None leaves those fields 0.

    Raises:
        ValueError: the tracepoint lacks a field, or has it in another size.
    """
    at = {name: field.offset for name, field in layout.fields.items()}
    size = {name: field.size for name, field in layout.fields.items()}
    if size.get("saddr_v6") != _ADDRESS_LENGTH or size.get("daddr_v6") != _ADDRESS_LENGTH or "newstate" not in size:
        raise ValueError("sock:inet_sock_set_state has another layout than any known kernel's")
    return (
        move(_CONTEXT, 1),  # calls do not preserve r1
        *_select_self_connects(at, size),
        *_count_it(counts),
        *_build_record(at, size, pids),
        *_hand_it_over(records),
        place_label("end"),
        *load_value(0, 0),  # 0: nothing else happens at this tracepoint for our event
        end(),
    )


def _load_field(register: int, name: str, at: dict[str, int], size: dict[str, int]) -> EbpfInstruction:
    return load_memory(register, _CONTEXT, at[name], size[name])


def _select_self_connects(at: dict[str, int], size: dict[str, int]) -> Iterator[EbpfInstruction]:
    # Only sockets that become ESTABLISHED ...
    yield _load_field(2, "newstate", at, size)
    yield jump_unless_value(2, TcpState.ESTABLISHED, "end")
    # ... with equal ports (in host byte order, both) ...
    yield _load_field(2, "sport", at, size)
    yield _load_field(3, "dport", at, size)
    yield jump_if_different(2, 3, "end")
    # ... of TCP (an MPTCP connection reports its TCP subflow and itself) ...
    yield _load_field(3, "protocol", at, size)
    yield jump_unless_value(3, socket.IPPROTO_TCP, "end")
    # ... with equal addresses.
    yield from _same_addresses(_CONTEXT, at)


def _count_it(counts: int) -> Iterator[EbpfInstruction]:
    yield store_value(10, -_KEY, 0, 4)  # the key 0, on the stack
    yield load_map(1, counts)
    yield move(2, 10)
    yield add_value(2, -_KEY)
    yield call_helper(Helper.MAP_LOOKUP)
    yield jump_if_value(0, 0, "end")  # never with an array, but the verifier insists
    yield move(_COUNT, 0)  # the address of the counts
    yield from load_value(8, 1)
    yield add_to_memory(_COUNT, 0, 8)


def _build_record(at: dict[str, int], size: dict[str, int], pids: PidNamespace | None) -> Iterator[EbpfInstruction]:
    # Port, family and address ...
    yield _load_field(2, "sport", at, size)
    yield store_register(10, _RECORD_AT + _PORT, 2, 2)
    yield _load_field(2, "family", at, size)
    yield store_register(10, _RECORD_AT + _FAMILY, 2, 2)
    yield store_value(10, _RECORD_AT + _FAMILY + 4, 0, 4)  # the kernel may read padding once it is written
    yield from _copy_address(_CONTEXT, at["saddr_v6"], _RECORD_AT + _ADDRESS)
    # ... the time, the process and its name.
    yield call_helper(Helper.KTIME)
    yield store_register(10, _RECORD_AT + _TIME, 0, 8)
    yield call_helper(Helper.CURRENT_PID_TGID)
    yield store_register(10, _RECORD_AT + _PID, 0, 8)
    yield move(1, 10)
    yield add_value(1, _RECORD_AT + _COMM)
    yield from load_value(2, 16)
    yield call_helper(Helper.CURRENT_COMM)
    yield from _pid_in(pids, _RECORD_AT + _PID_HERE)


def _hand_it_over(records: int) -> Iterator[EbpfInstruction]:
    """Write the record to the buffer of this CPU; count it as lost if there was no place, or no buffer."""
    yield move(1, _CONTEXT)
    yield load_map(2, records)
    yield from load_value(3, _CURRENT_CPU)
    yield move(4, 10)
    yield add_value(4, _RECORD_AT)
    yield from load_value(5, _RECORD.size)
    yield call_helper(Helper.PERF_EVENT_OUTPUT)
    yield jump_if_value(0, 0, "end")
    yield add_to_memory(_COUNT, 8, 8)


def _same_addresses(context: int, at: dict[str, int]) -> list[EbpfInstruction]:
    """Compare both addresses, word by word; IPv4 ones are written as v4-mapped. Other kernels' are not aligned."""
    step = 4 if at["saddr_v6"] % 4 == at["daddr_v6"] % 4 == 0 else 1
    return [
        line
        for place in range(0, _ADDRESS_LENGTH, step)
        for line in (
            load_memory(4, context, at["saddr_v6"] + place, step),
            load_memory(5, context, at["daddr_v6"] + place, step),
            jump_if_different(4, 5, "end"),
        )
    ]


def _copy_address(context: int, source: int, place: int) -> list[EbpfInstruction]:
    step = 4 if source % 4 == 0 else 1
    return [
        line
        for offset in range(0, _ADDRESS_LENGTH, step)
        for line in (load_memory(4, context, source + offset, step), store_register(10, place + offset, 4, step))
    ]


def _pid_in(pids: PidNamespace | None, place: int) -> list[EbpfInstruction]:
    """Have the kernel write ``struct bpf_pidns_info``: zeros for a process of another namespace."""
    clear = [store_value(10, place, 0, 4), store_value(10, place + 4, 0, 4)]
    if pids is None:
        return clear
    return [
        *clear,
        *load_value(1, pids.device),
        *load_value(2, pids.inode),
        move(3, 10),
        add_value(3, place),
        *load_value(4, 8),
        call_helper(Helper.CURRENT_PID_TGID_IN_NAMESPACE),
    ]


def decode_record(record: bytes, *, is_initial: bool = True) -> Established:
    """Read one record of the program.

    Args:
        record: its bytes, and what the kernel adds to fill 8 bytes up.
        is_initial: True if our own pid namespace is the machine's.

    Raises:
        ValueError: it is too short, or of an unknown family.
    """
    if len(record) < _RECORD.size:
        raise ValueError(f"{len(record)} bytes are too few for a record of {_RECORD.size}")
    fields = _RECORD.unpack_from(record)
    time, _, process, process_here_first, process_here, family, port, address, name = fields
    if family not in (socket.AF_INET, socket.AF_INET6):
        raise ValueError(f"{family} is neither AF_INET nor AF_INET6")
    del process_here_first  # struct bpf_pidns_info: pid (the thread), then tgid (the process)
    host = canonical_host(socket.inet_ntop(socket.AF_INET6, address))
    thread = name.partition(b"\0")[0].decode("utf-8", "replace")
    if thread.startswith(_OF_THE_KERNEL):
        process = process_here = 0
        thread = ""
    return Established(
        monotonic_ns=time,
        family=family,
        endpoint=Endpoint(host, port),
        pid=process if is_initial else process_here,
        name=thread,
    )


class EstablishedEvents:
    """The self-connects of the machine, from now on. Use it as a context manager, or close it.

    Attributes:
        descriptors: readable when there are events, for poll(2).
        instructions: the length of the program.

    Raises:
        OSError: this system does not allow it: CAP_BPF and CAP_PERFMON are missing (before Linux 5.8 CAP_SYS_ADMIN),
            tracefs cannot be read, the kernel is locked down or lacks the tracepoint.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        try:
            self._start()
        except ValueError as error:
            self._stack.close()
            raise OSError(errno.EOPNOTSUPP, str(error)) from error
        except BaseException:
            self._stack.close()
            raise

    def _start(self) -> None:
        layout = read_format(_CATEGORY, _NAME)
        pids = PidNamespace.current()
        self._is_initial = pids.is_initial
        self._counts = self._close_later(create_map(MapType.ARRAY, 4, _COUNTS.size, 1))
        possible = max(cpu_numbers("possible")) + 1
        records = self._close_later(create_map(MapType.PERF_EVENT_ARRAY, 4, 4, possible))
        self._buffers: list[PerfBuffer] = []
        for cpu in cpu_numbers("online"):
            buffer = PerfBuffer(cpu)
            self._stack.callback(buffer.close)
            self._buffers.append(buffer)
            write_map(records, struct.pack("=I", cpu), struct.pack("=I", buffer.descriptor))
        code = assemble(established_program(layout, self._counts, records, None if self._is_initial else pids))
        program = self._close_later(load_program(code))
        self._close_later(attach_program(program, layout.identifier))
        self._program = program
        self.instructions = len(code) // 8
        self.descriptors = tuple(buffer.descriptor for buffer in self._buffers)

    def _close_later(self, descriptor: int) -> int:
        self._stack.callback(os.close, descriptor)
        return descriptor

    def __enter__(self) -> EstablishedEvents:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Detach and free the program; the kernel does that as well when this process ends in any other way."""
        self._stack.close()

    def read_events(self) -> list[Established]:
        """Return the events since the last call, the oldest first."""
        records = chain.from_iterable(buffer.read_records() for buffer in self._buffers)
        events = (decode_record(record, is_initial=self._is_initial) for record in records)
        return sorted(events, key=lambda event: event.monotonic_ns)

    def read_counts(self) -> tuple[int, int]:
        """Return the number of self-connects since the start, and how many of them are not among the events.

        The second number includes the changes of state that the kernel did not show to the program: any of them may
        have been a self-connect.
        """
        seen, lost = _COUNTS.unpack(read_map(self._counts, bytes(4), _COUNTS.size))
        return seen, lost + read_misses(self._program)
