"""The C library, for the system calls that Python's own modules do not offer."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

__all__ = ["last_error", "libc", "quick_errno", "quick_error", "quick_libc"]


@cache
def libc() -> ctypes.CDLL:
    """Return the C library; what a call failed with, :func:`last_error` tells."""
    import ctypes  # here, so that only who calls it waits for it

    return ctypes.CDLL(None, use_errno=True)


def last_error(call: str) -> OSError:
    """Return what the last call of a function of :func:`libc` failed with; ``call`` is its name."""
    import ctypes

    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


@cache
def quick_libc() -> ctypes.PyDLL:
    """Return the C library for calls that must be quick, by processes with a single thread.

    It keeps the GIL and does not save errno for each call, both of which cost more than a short system call. Give no
    ``argtypes`` either: prepared ctypes objects are passed on as they are.
    """
    import ctypes

    return ctypes.PyDLL(None)


@cache
def _errno() -> ctypes.c_int:
    import ctypes

    where = ctypes.PyDLL(None).__errno_location  # what the macro errno stands for, in glibc and in musl
    where.restype = ctypes.POINTER(ctypes.c_int)
    found: ctypes.c_int = where().contents
    return found


def quick_errno() -> int:
    """Return errno as a call of :func:`quick_libc` left it; to be asked at once, by the main thread."""
    return _errno().value


def quick_error(call: str) -> OSError:
    """Return what a call of :func:`quick_libc` failed with just now."""
    number = quick_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
