"""Descriptors of other processes: pidfd_open(2) and pidfd_getfd(2)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from typing import Final

from tailbite.kernel.kcmp import shares_descriptors
from tailbite.kernel.libc import last_error, libc, quick_error, quick_libc

__all__ = [
    "PIDFD_GETFD",
    "can_copy_descriptors",
    "can_watch_processes",
    "copy_descriptor",
    "copy_descriptor_of_thread",
    "open_process",
    "open_thread",
]

# The same on every architecture since Linux 5.1 unified the numbers (include/uapi/asm-generic/unistd.h).
_PIDFD_OPEN: Final = 434
PIDFD_GETFD: Final = 438
"""The number of pidfd_getfd(2)."""
_PIDFD_THREAD = os.O_EXCL  # Linux 6.9


def open_process(pid: int) -> int:
    """Return a pidfd of a process, which becomes readable when the process ends (Linux 5.3).

    ``os.pidfd_open`` is missing in a Python that was built with the headers of an older C library, as those of uv and
    conda are.

    Raises:
        OSError: ESRCH, the process is gone; ENOSYS before Linux 5.3.
    """
    descriptor = libc().syscall(_PIDFD_OPEN, pid, 0)
    if descriptor < 0:
        raise last_error("pidfd_open")
    return int(descriptor)


def open_thread(tid: int) -> int:
    """Return a pidfd of a thread: since Linux 6.9 of exactly that thread, before that of its process.

    Raises:
        OSError: ESRCH, the thread is gone; ENOTSUP before Linux 6.9, the thread has descriptors of its own
            (unshare(2) with CLONE_FILES), or the kernel does not say whether it has (kcmp(2)). Then
            :func:`copy_descriptor_of_thread` may help.
    """
    descriptor = libc().syscall(_PIDFD_OPEN, tid, _PIDFD_THREAD)
    if descriptor < 0 and ctypes.get_errno() == errno.EINVAL:
        leader = _leader(tid)
        if not shares_descriptors(tid, leader):
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        return open_process(leader)
    if descriptor < 0:
        raise last_error("pidfd_open")
    return int(descriptor)


def _leader(tid: int) -> int:
    with (
        contextlib.suppress(FileNotFoundError),  # the thread is gone
        open(f"/proc/{tid}/status", encoding="ascii", errors="replace") as lines,  # noqa: PTH123
    ):
        for line in lines:
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def copy_descriptor(pidfd: int, descriptor: int) -> int:
    """Return a descriptor of our own for what another process has open as ``descriptor`` (Linux 5.6).

    Raises:
        OSError: EBADF, the process has no such descriptor; ESRCH, the process is gone; EPERM, this user may not
            trace it.
    """
    copy: int = quick_libc().syscall(PIDFD_GETFD, pidfd, descriptor, 0)
    if copy < 0:
        raise quick_error("pidfd_getfd")
    return copy


def copy_descriptor_of_thread(tid: int, descriptor: int) -> int:
    """Return a copy of a thread's descriptor by way of its process, where :func:`open_thread` fails with ENOTSUP.

    The copy is compared with what the thread has open, so it is right if the two have separate descriptors.

    Raises:
        OSError: EBADF, the thread has no such descriptor; ENOTSUP, its process has something else there; ESRCH, the
            thread is gone; EPERM, this user may not trace it.
    """
    pidfd = open_process(_leader(tid))
    try:
        copy = copy_descriptor(pidfd, descriptor)
    except OSError as error:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP)) if error.errno == errno.EBADF else error from None
    finally:
        os.close(pidfd)
    try:
        is_the_same = os.path.samestat(os.fstat(copy), os.stat(f"/proc/{tid}/fd/{descriptor}"))  # noqa: PTH116
    except OSError as error:
        os.close(copy)
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) if error.errno == errno.ENOENT else error from None
    if not is_the_same:
        os.close(copy)
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    return copy


def can_watch_processes() -> bool:
    """Tell whether this system reports the end of any process (pidfd_open(2), Linux 5.3)."""
    try:
        os.close(open_process(os.getpid()))
    except OSError:
        return False
    return True


def can_copy_descriptors() -> bool:
    """Tell whether this system allows copying descriptors at all: Docker's profile wants CAP_SYS_PTRACE for it."""
    try:
        pidfd = open_thread(os.getpid())
    except OSError:
        return False
    try:
        os.close(copy_descriptor(pidfd, pidfd))
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True
