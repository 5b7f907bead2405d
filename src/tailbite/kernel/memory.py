"""The memory of other processes: process_vm_readv(2), and Yama's limits on it."""

from __future__ import annotations

import ctypes
import os

from tailbite.kernel.libc import quick_error, quick_libc

__all__ = ["MemoryReader", "can_read_memory", "yama_scope"]


class _Vector(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class MemoryReader:
    """A reader of a few bytes of other processes' memory, into the same place each time.

    Attributes:
        buffer: the bytes of the last read.
    """

    def __init__(self, most: int) -> None:
        target = ctypes.create_string_buffer(most)
        here, there = _Vector(ctypes.addressof(target), most), _Vector()
        self.buffer = memoryview(target).cast("B")
        self._length_here = memoryview(here).cast("B").cast("L")
        self._there = memoryview(there).cast("B").cast("L")
        self._arguments = ctypes.byref(here), 1, ctypes.byref(there), 1, 0
        self._call = quick_libc().process_vm_readv
        self._call.restype = ctypes.c_ssize_t

    def read(self, tid: int, address: int, length: int) -> int:
        """Read the bytes at ``address``, at most as many as fit into the buffer; return how many bytes those were.

        They are fewer than ``length`` where mapped memory ends.

        Raises:
            OSError: EPERM, this user may not trace the process; ESRCH, the process is gone; EFAULT, nothing is
                mapped at the address.
        """
        self._length_here[1] = length = min(length, len(self.buffer))
        self._there[0] = address
        self._there[1] = length
        count: int = self._call(tid, *self._arguments)
        if count < 0:
            raise quick_error("process_vm_readv")
        return count


def can_read_memory() -> bool:
    """Tell whether this system allows reading memory at all; a container's profile may forbid it."""
    probe = ctypes.create_string_buffer(b"tailbite")
    try:
        reader = MemoryReader(8)
        return reader.read(os.getpid(), ctypes.addressof(probe), 8) == 8 and bytes(reader.buffer) == b"tailbite"
    except OSError:
        return False


def yama_scope() -> int:
    """Return ``kernel.yama.ptrace_scope``: 0 is classic, 1 descendants only, 2 privileged only, 3 nobody.

    A kernel without Yama has scope 0 (Documentation/admin-guide/LSM/Yama.rst).
    """
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read())
    except (OSError, ValueError):
        return 0
