"""eBPF events of the whole machine, which the tests of all workers share.

The kernel drops events while a buffer is full, and counts them. A test that fills the buffers on purpose holds the
lock alone; the others share it. If another program of the machine fills them, the count of lost events tells so, and
the test repeats what it did.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    T = TypeVar("T")

__all__ = ["machine_events", "own_port", "without_loss"]


def own_port(base: int, step: int) -> int:
    """Return a port that no other process of the tests uses while this one lives.

    The number of the network namespace tells them apart: each worker numbers its processes from 1.

    Args:
        base: the lowest port.
        step: ports from one process's to the next one's; the highest port is below base + 2500 * step.
    """
    return base + step * (Path("/proc/thread-self/ns/net").stat().st_ino % 2500)


@contextlib.contextmanager
def machine_events(*, is_filling: bool = False) -> Iterator[None]:
    """Share the machine's events with other tests, or keep those out while this one fills the buffers.

    Each passes a gate first, which the one that fills holds while it waits: else those that share would follow one
    another, and it would wait without end (flock(2) serves none in turn).
    """
    path = Path(f"/tmp/tailbite-events-{os.geteuid()}.lock")
    with path.open("a") as file:
        with path.with_suffix(".gate").open("a") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(file, fcntl.LOCK_EX if is_filling else fcntl.LOCK_SH)
        yield


def without_loss(lost: Callable[[], int], act: Callable[[], T]) -> T:
    """Return the result of ``act``, repeated until no event was lost during it."""
    while True:
        before = lost()
        result = act()
        if lost() == before:
            return result
