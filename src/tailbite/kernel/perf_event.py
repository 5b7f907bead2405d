"""perf_event_open(2): events, and the ring buffers in which BPF programs leave their records.

Each CPU has a buffer of its own: a page of state and a power of two of pages of data, mapped into this process. The
kernel writes records and moves ``data_head``; this process reads them and moves ``data_tail``. Where a buffer is full
the program's call fails, and the program counts that.
"""
# ruff: noqa: PTH123 - pathlib takes 4 ms to load

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import struct
from typing import TYPE_CHECKING, Final

from tailbite.kernel.libc import architecture, last_error, libc

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "PERF_TYPE_TRACEPOINT",
    "PerfBuffer",
    "cpu_numbers",
    "open_perf_event",
    "set_program",
    "split_records",
]

_PERF_EVENT_OPEN: Final = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "loongarch64": 241, "ppc64le": 319}
"""The number of perf_event_open(2), by :func:`~tailbite.kernel.libc.architecture`."""

# include/uapi/linux/perf_event.h
PERF_TYPE_SOFTWARE: Final = 1
PERF_TYPE_TRACEPOINT: Final = 2
PERF_COUNT_SW_BPF_OUTPUT: Final = 10
_SAMPLE_RAW = 1 << 10
_FLAG_CLOEXEC = 8
_ATTRIBUTES = struct.Struct("=IIQQQQQI60x")  # type, size, config, period, sample, read format, flags, wake-up events
_IOC_ENABLE = 0x2400
_IOC_SET_BPF = 0x8004_2408 if os.uname().machine.startswith("ppc") else 0x4004_2408
_HEAD, _TAIL = 1024, 1032  # struct perf_event_mmap_page
_RECORD = struct.Struct("=IHHI")  # struct perf_event_header: type, misc, size; then the length of the raw data
_HEADER_SIZE = 8
_RECORD_SAMPLE = 9

_PAGES = 16
"""Pages of data for each CPU: about 800 records of 64 bytes."""


def open_perf_event(kind: int, config: int, *, cpu: int) -> int:
    """Open an event on one CPU, for all processes, and enable it.

    Raises:
        OSError: EACCES without CAP_PERFMON (before Linux 5.8: CAP_SYS_ADMIN); ENODEV, the CPU is offline; EPERM, the
            kernel is locked down.
    """
    number = _PERF_EVENT_OPEN.get(architecture())
    if number is None:
        raise OSError(errno.ENOSYS, f"perf_event_open: the number of {architecture()} is not known")
    attributes = _ATTRIBUTES.pack(kind, _ATTRIBUTES.size, config, 1, _SAMPLE_RAW, 0, 0, 1)
    descriptor = libc().syscall(number, attributes, -1, cpu, -1, _FLAG_CLOEXEC)
    if descriptor < 0:
        raise last_error("perf_event_open")
    try:
        fcntl.ioctl(descriptor, _IOC_ENABLE, 0)
    except OSError:
        os.close(descriptor)
        raise
    return int(descriptor)


def set_program(event: int, program: int) -> None:
    """Have a BPF program run at an event.

    Raises:
        OSError: the program reads past the event's record, or is of another kind.
    """
    fcntl.ioctl(event, _IOC_SET_BPF, program)


def cpu_numbers(which: str) -> tuple[int, ...]:
    """Return the CPUs that are ``online`` or ``possible`` (Documentation/ABI/stable/sysfs-devices-system-cpu).

    Without sysfs these are as many as Python counts.
    """
    try:
        with open(f"/sys/devices/system/cpu/{which}", encoding="ascii") as file:
            ranges = [part.partition("-") for part in file.read().strip().split(",")]
        return tuple(cpu for low, _, high in ranges for cpu in range(int(low), int(high or low) + 1))
    except (OSError, ValueError):
        return tuple(range(os.cpu_count() or 1))


def split_records(data: bytes | memoryview, head: int, tail: int) -> Iterator[bytes]:
    """Yield the raw data of the samples between ``tail`` and ``head`` of a ring buffer. Pure.

    Args:
        data: the buffer; its length is a power of two.
        head: bytes that the kernel ever wrote.
        tail: bytes that were ever read.

    Raises:
        ValueError: a record is longer than what was written, or shorter than its header.
    """
    size = len(data)
    while tail < head:
        start = tail % size
        # A record may continue at the beginning of the buffer; headers are aligned to 8 bytes and never do.
        length = struct.unpack_from("=H", data, start + 6)[0]
        if length < _HEADER_SIZE or length > head - tail:
            raise ValueError(f"a perf record claims {length} bytes of {head - tail}")
        record = bytes(data[start : start + length])
        record += bytes(data[: length - len(record)])
        if length >= _RECORD.size and _RECORD.unpack_from(record)[0] == _RECORD_SAMPLE:
            raw = _RECORD.unpack_from(record)[3]
            yield record[_RECORD.size : _RECORD.size + raw]
        tail += length


class PerfBuffer:
    """The ring buffer of one CPU, for BPF programs to write to.

    Args:
        cpu: number of the CPU.

    Attributes:
        descriptor: readable when there are records.

    Raises:
        OSError: see :func:`open_perf_event`; EPERM as well if more memory would be locked than
            ``kernel.perf_event_mlock_kb`` allows.
    """

    def __init__(self, cpu: int) -> None:
        self.descriptor = open_perf_event(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_BPF_OUTPUT, cpu=cpu)
        try:
            self._memory = mmap.mmap(self.descriptor, (1 + _PAGES) * mmap.PAGESIZE, mmap.MAP_SHARED)
        except (OSError, ValueError) as error:
            os.close(self.descriptor)
            raise error if isinstance(error, OSError) else OSError(errno.EINVAL, str(error)) from None
        self._all = memoryview(self._memory)
        self._state = self._all[_HEAD : _TAIL + 8].cast("Q")
        self._data = self._all[mmap.PAGESIZE :]

    def read_records(self) -> list[bytes]:
        """Return the records that were written since the last call, the oldest first."""
        head, tail = self._state[0], self._state[1]
        try:
            return list(split_records(self._data, head, tail))
        finally:
            self._state[1] = head

    def close(self) -> None:
        """Free the buffer."""
        for view in (self._state, self._data, self._all):
            view.release()
        self._memory.close()
        with contextlib.suppress(OSError):
            os.close(self.descriptor)
