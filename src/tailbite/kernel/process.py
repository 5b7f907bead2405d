"""Looking into another process (pidfd_getfd(2), process_vm_readv(2)), and what a helper process needs (prctl(2))."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from functools import cache
from typing import Final

__all__ = [
    "CAP_SYS_ADMIN",
    "CAP_SYS_PTRACE",
    "MemoryReader",
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
_PIDFD_OPEN, _PIDFD_GETFD = 434, 438
_PIDFD_THREAD = os.O_EXCL  # Linux 6.9
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
CAP_SYS_PTRACE: Final = 19
CAP_SYS_ADMIN: Final = 21


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@cache
def _syscall() -> ctypes._NamedFuncPointer:
    return _libc().syscall


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


def open_thread(tid: int) -> int:
    """Return a pidfd of a thread: since Linux 6.9 of just that one, before of its process.

    Raises:
        OSError: ESRCH, it is gone.
    """
    descriptor = _libc().syscall(_PIDFD_OPEN, tid, _PIDFD_THREAD)
    if descriptor < 0 and ctypes.get_errno() == errno.EINVAL:
        # All threads but those of clone(2) without CLONE_FILES share the descriptors of their leader.
        descriptor = _libc().syscall(_PIDFD_OPEN, _leader(tid), 0)
    if descriptor < 0:
        raise _error("pidfd_open")
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
    copy = _syscall()(_PIDFD_GETFD, pidfd, descriptor, 0)
    if copy < 0:
        raise _error("pidfd_getfd")
    return int(copy)


class _Vector(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class MemoryReader:
    """Reads a few bytes of other processes' memory; the buffers are made once."""

    def __init__(self, most: int = 128) -> None:
        self._room = ctypes.create_string_buffer(most)
        self._here = _Vector(ctypes.addressof(self._room), most)
        self._there = _Vector()
        self._pointers = ctypes.byref(self._here), ctypes.byref(self._there)
        self._call = _libc().process_vm_readv
        self._call.restype = ctypes.c_ssize_t

    def read(self, tid: int, address: int, length: int) -> bytes:
        """Return ``length`` bytes at ``address``, or fewer where mapped memory ends.

        Raises:
            OSError: EPERM, it is not ours to look into; ESRCH, it is gone; EFAULT, nothing is mapped there.
        """
        self._here.length = self._there.length = min(length, len(self._room))
        self._there.base = address
        here, there = self._pointers
        count = self._call(tid, here, 1, there, 1, 0)
        if count < 0:
            raise _error("process_vm_readv")
        return self._room.raw[:count]


def can_read_memory() -> bool:
    """Tell whether reading memory is allowed here at all; a container's profile may forbid it."""
    probe = ctypes.create_string_buffer(b"tailbite")
    try:
        return MemoryReader().read(os.getpid(), ctypes.addressof(probe), 8) == b"tailbite"
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
    return bool(_libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def signal_when_parent_ends(number: int) -> None:
    """Have the kernel send this process a signal when its parent ends (PR_SET_PDEATHSIG); 0 takes that back."""
    _libc().prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def name_process(name: str) -> None:
    """Give this process the name that ps(1) and top(1) show; at most 15 bytes."""
    _libc().prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123 - pathlib takes 4 ms to load
        return file.read()
