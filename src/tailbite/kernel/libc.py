"""The C library, for system calls that Python's own modules do not offer, and the machine that has their numbers."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

__all__ = ["architecture", "last_error", "libc", "quick_errno", "quick_error", "quick_libc"]


def architecture() -> str:
    """Return the machine whose system call numbers this process uses, as uname(2) names it: ``x86_64``.

    uname(2) tells a 32-bit process of a 64-bit kernel the same, but its numbers are others: 298 is perf_event_open(2)
    on x86_64 and fchownat(2) on i386. For such a process, the answer is a text that is not the name of a machine.
    """
    machine = os.uname().machine
    return machine if sys.maxsize > 1 << 32 else f"32-bit programs on {machine}"


@cache
def libc() -> ctypes.CDLL:
    """Return the C library; after a failed call, :func:`last_error` returns its error."""
    import ctypes  # here, so that only callers pay for the import

    return ctypes.CDLL(None, use_errno=True)


def last_error(call: str) -> OSError:
    """Return the error of the last call through :func:`libc`; ``call`` is the name for its message."""
    import ctypes

    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


@cache
def quick_libc() -> ctypes.PyDLL:
    """Return the C library for calls that must be quick, in processes with a single thread.

    It keeps the GIL and does not save errno for each call, both of which cost more than a short system call. Give no
    ``argtypes`` either: prepared ctypes objects are passed on as they are.
    """
    import ctypes

    return ctypes.PyDLL(None)


@cache
def _errno() -> ctypes.c_int:
    import ctypes

    location = ctypes.PyDLL(None).__errno_location  # what the macro errno stands for, in glibc and in musl
    location.restype = ctypes.POINTER(ctypes.c_int)
    value: ctypes.c_int = location().contents
    return value


def quick_errno() -> int:
    """Return errno as the last call through :func:`quick_libc` left it; call this at once, in the main thread."""
    return _errno().value


def quick_error(call: str) -> OSError:
    """Return the error of the last call through :func:`quick_libc`; ``call`` is the name for its message."""
    number = quick_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
