"""Evidence that a system call of another thread is over, as far as /proc and the thread's memory show it.

A supervisor lets a connect call continue, and the caller runs again within microseconds, unless the CPUs are busy: a
process of low priority, or one whose CPU quota is used up, may not run for seconds. So no time proves that the kernel
has chosen a source port for the call, but each of these does:

=====================================================  ==============================================================
event                                                  evidence
=====================================================  ==============================================================
the thread has ended                                   the call is over
the thread sleeps (``S`` in /proc/TID/stat)            it waits for the answer to its SYN, or is in another call
the thread is stopped (``T``, ``t``)                   a thread stops when it returns from a call (signal(7))
the thread waits (``D``) in another call               /proc/TID/syscall names the call
the memory below its stack pointer has changed         nothing lives there during a call, and only the thread itself
                                                       writes there, once it has returned
the thread has run for 20 s (/proc/TID/schedstat)      a thread that spends that long inside the kernel is a "soft
                                                       lockup", which the kernel reports as its own fault; the search
                                                       through a full range takes less than 5 ms
=====================================================  ==============================================================

The last one is for a thread that computes after its call without a sleep and without a deeper function call than
before. A shorter run time proves nothing: on a virtual CPU it may include time in which the host ran others.

Where /proc does not show the thread (there is no /proc, or it is mounted with hidepid=), only the thread's end shows
that the call is over, or another call that the thread reports.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from tailbite.kernel.memory import MemoryReader

__all__ = ["PendingCall", "run_time"]

_LOCKUP: Final = 20.0
"""Twice the default of kernel.watchdog_thresh: Documentation/admin-guide/lockup-watchdogs.rst."""

_BELOW: Final = 256
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")
_STACK_POINTER: Final = 7
"""The field of /proc/TID/syscall after the number and six arguments (proc_pid_syscall(5))."""

_stack = MemoryReader(_BELOW)


class PendingCall:
    """A system call that a thread is about to be allowed to make.

    Args:
        tid: the thread, which waits until it may continue.
        numbers: the numbers that the call may have on this machine.
    """

    __slots__ = ("_below", "_numbers", "_pointer", "_run_time", "_tid")

    def __init__(self, tid: int, numbers: tuple[int, ...]) -> None:
        self._tid = tid
        self._numbers = numbers
        self._run_time = run_time(tid)
        self._pointer = _stack_pointer(tid)
        self._below = _read_below(tid, self._pointer)

    def is_over(self) -> bool:
        """Tell whether the call is known to be over."""
        try:
            state = _read(f"/proc/{self._tid}/stat").rpartition(b") ")[2][:1]
        except OSError:
            return not _exists(self._tid)
        if state == b"R":
            return self._has_returned() or self._has_run_too_long()
        if state == b"D":
            return self._is_in_another_call()
        return True

    def _has_returned(self) -> bool:
        below = _read_below(self._tid, self._pointer) if self._below else b""
        return bool(below) and below != self._below

    def _has_run_too_long(self) -> bool:
        ran = run_time(self._tid)
        return ran is not None and self._run_time is not None and ran - self._run_time > _LOCKUP

    def _is_in_another_call(self) -> bool:
        with contextlib.suppress(OSError, ValueError, IndexError):
            number = _read(f"/proc/{self._tid}/syscall").split()[0]
            return number != b"running" and int(number) not in self._numbers
        return False


def _exists(tid: int) -> bool:
    try:
        os.kill(tid, 0)  # kill(2) finds threads as well
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _stack_pointer(tid: int) -> int:
    """Return the stack pointer of a thread that waits in a system call; 0 if the kernel does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = _read(f"/proc/{tid}/syscall").split()
        if fields[:1] == [b"running"]:  # it has reported its call, and was interrupted on its way to sleep
            os.sched_yield()
            fields = _read(f"/proc/{tid}/syscall").split()
        return int(fields[_STACK_POINTER], 16)
    return 0


def _read_below(tid: int, pointer: int) -> bytes:
    """Return what lies below a stack pointer, in the same page; nothing if that cannot be read."""
    if not pointer:
        return b""
    start = max(pointer - _BELOW, (pointer - 1) & -_PAGE)
    try:
        count = _stack.read(tid, start, pointer - start)
    except OSError:
        return b""
    return bytes(_stack.buffer[:count])


def run_time(tid: int) -> float | None:
    """Return the seconds of CPU time that a thread has had; None if that cannot be read."""
    try:
        return int(_read(f"/proc/{tid}/schedstat").split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        pass  # a kernel without CONFIG_SCHED_INFO
    try:
        fields = _read(f"/proc/{tid}/stat").rpartition(b") ")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK
    except (OSError, ValueError, IndexError):
        return None


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - pathlib takes 4 ms to load
        return file.read()
