"""Looking into another process (pidfd_getfd(2), process_vm_readv(2)), and what a helper process needs (prctl(2))."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from typing import Final

from tailbite.kernel.libc import last_error, libc, quick_error, quick_libc

__all__ = [
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_ADMIN",
    "CAP_SYS_PTRACE",
    "PIDFD_GETFD",
    "MemoryReader",
    "Vector",
    "become_subreaper",
    "can_copy_descriptors",
    "can_read_memory",
    "copy_descriptor",
    "has_capability",
    "name_process",
    "open_thread",
    "signal_when_parent_ends",
    "yama_scope",
]

# The same on every architecture since Linux 5.1 unified the numbers (include/uapi/asm-generic/unistd.h).
_PIDFD_OPEN, PIDFD_GETFD = 434, 438
_PIDFD_THREAD = os.O_EXCL  # Linux 6.9
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
CAP_NET_BIND_SERVICE: Final = 10
CAP_SYS_PTRACE: Final = 19
CAP_SYS_ADMIN: Final = 21


def open_thread(tid: int) -> int:
    """Return a pidfd of a thread: since Linux 6.9 of just that one, before of its process.

    Raises:
        OSError: ESRCH, it is gone.
    """
    descriptor = libc().syscall(_PIDFD_OPEN, tid, _PIDFD_THREAD)
    if descriptor < 0 and ctypes.get_errno() == errno.EINVAL:
        # All threads but those of clone(2) without CLONE_FILES share the descriptors of their leader.
        descriptor = libc().syscall(_PIDFD_OPEN, _leader(tid), 0)
    if descriptor < 0:
        raise last_error("pidfd_open")
    return int(descriptor)


def _leader(tid: int) -> int:
    for line in _read(f"/proc/{tid}/status").splitlines():
        if line.startswith("Tgid:"):
            return int(line.split()[1])
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def copy_descriptor(pidfd: int, descriptor: int) -> int:
    """Return a descriptor of our own for what another process has open as ``descriptor`` (Linux 5.6).

    Raises:
        OSError: EBADF, it has no such descriptor; ESRCH, it is gone; EPERM, it is not ours to look into.
    """
    copy: int = quick_libc().syscall(PIDFD_GETFD, pidfd, descriptor, 0)
    if copy < 0:
        raise quick_error("pidfd_getfd")
    return copy


class Vector(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class MemoryReader:
    """Reads a few bytes of other processes' memory, into the same place each time.

    Attributes:
        room: what was read last.
    """

    def __init__(self, most: int) -> None:
        room = ctypes.create_string_buffer(most)
        here, there = Vector(ctypes.addressof(room), most), Vector()
        self.room = memoryview(room).cast("B")
        self._length_here = memoryview(here).cast("B").cast("L")
        self._there = memoryview(there).cast("B").cast("L")
        self._arguments = ctypes.byref(here), 1, ctypes.byref(there), 1, 0
        self._call = quick_libc().process_vm_readv
        self._call.restype = ctypes.c_ssize_t

    def read(self, tid: int, address: int, length: int) -> int:
        """Read what is at ``address``, at most as much as there is room for; return how many bytes that were.

        They are fewer than ``length`` where mapped memory ends.

        Raises:
            OSError: EPERM, it is not ours to look into; ESRCH, it is gone; EFAULT, nothing is mapped there.
        """
        self._length_here[1] = length = min(length, len(self.room))
        self._there[0] = address
        self._there[1] = length
        count: int = self._call(tid, *self._arguments)
        if count < 0:
            raise quick_error("process_vm_readv")
        return count


def can_read_memory() -> bool:
    """Tell whether reading memory is allowed here at all; a container's profile may forbid it."""
    probe = ctypes.create_string_buffer(b"tailbite")
    try:
        reader = MemoryReader(8)
        return reader.read(os.getpid(), ctypes.addressof(probe), 8) == 8 and bytes(reader.room) == b"tailbite"
    except OSError:
        return False


def can_copy_descriptors() -> bool:
    """Tell whether copying descriptors is allowed here at all: Docker's profile wants CAP_SYS_PTRACE for it."""
    try:
        pidfd = open_thread(os.getpid())
    except OSError:
        return False
    try:
        ours, theirs = os.pipe()
        try:
            os.close(copy_descriptor(pidfd, ours))
        except OSError:
            return False
        finally:
            os.close(ours)
            os.close(theirs)
        return True
    finally:
        os.close(pidfd)


def has_capability(number: int) -> bool:
    """Tell whether this process has a capability in effect, in its own user namespace (capabilities(7))."""
    with contextlib.suppress(OSError, ValueError):
        for line in _read("/proc/self/status").splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return False


def yama_scope() -> int:
    """Return ``kernel.yama.ptrace_scope``: 0 is classic, 1 descendants only, 2 privileged only, 3 nobody.

    A kernel without Yama has scope 0 (Documentation/admin-guide/LSM/Yama.rst).
    """
    try:
        return int(_read("/proc/sys/kernel/yama/ptrace_scope"))
    except (OSError, ValueError):
        return 0


def become_subreaper() -> bool:
    """Have orphaned descendants become children of this process (PR_SET_CHILD_SUBREAPER); True if that worked."""
    return bool(libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def signal_when_parent_ends(number: int) -> None:
    """Have the kernel send this process a signal when its parent ends (PR_SET_PDEATHSIG); 0 takes that back."""
    libc().prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def name_process(name: str) -> None:
    """Give this process the name that ps(1) and top(1) show; at most 15 bytes."""
    libc().prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123 - pathlib takes 4 ms to load
        return file.read()
