"""Attributes of this process that only prctl(2) sets."""

from __future__ import annotations

import contextlib
import ctypes
from typing import TYPE_CHECKING, Final

from tailbite.kernel.libc import last_error, libc

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "become_subreaper",
    "die_with_parent",
    "is_subreaper",
    "name_process",
    "signal_when_parent_ends",
    "without_orphans",
]

# include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 1, 15, 36, 37
_SIGKILL: Final = 9


def become_subreaper() -> None:
    """Have orphaned descendants become children of this process (PR_SET_CHILD_SUBREAPER, Linux 3.4).

    Raises:
        OSError: the kernel refused.
    """
    _set(_PR_SET_CHILD_SUBREAPER, 1, "PR_SET_CHILD_SUBREAPER")


def is_subreaper() -> bool:
    """Tell whether orphaned descendants become children of this process (PR_GET_CHILD_SUBREAPER)."""
    answer = ctypes.c_int()
    return bool(libc().prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0) == 0 and answer.value)


@contextlib.contextmanager
def without_orphans() -> Iterator[None]:
    """Have descendants that become orphans inside the block pass this process by, if it is a subreaper."""
    if not is_subreaper():
        yield
        return
    _set(_PR_SET_CHILD_SUBREAPER, 0, "PR_SET_CHILD_SUBREAPER")
    try:
        yield
    finally:
        become_subreaper()


def signal_when_parent_ends(number: int) -> None:
    """Have the kernel send this process a signal when its parent *thread* ends (PR_SET_PDEATHSIG); 0 for none.

    Raises:
        OSError: EINVAL, the number is not a valid signal.
    """
    _set(_PR_SET_PDEATHSIG, number, "PR_SET_PDEATHSIG")


def die_with_parent() -> None:
    """Have the kernel kill this process (SIGKILL) when its parent thread ends.

    Raises:
        OSError: the kernel refused.
    """
    signal_when_parent_ends(_SIGKILL)


def name_process(name: str) -> None:
    """Set the name of this thread that ps(1) and top(1) show; the kernel keeps at most 15 bytes."""
    _set(_PR_SET_NAME, name.encode()[:15], "PR_SET_NAME")


def _set(option: int, value: int | bytes, name: str) -> None:
    if libc().prctl(option, value, 0, 0, 0) != 0:
        raise last_error(f"prctl({name})")
