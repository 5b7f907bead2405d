"""The memory that the helpers of one guarded program share, and that outlives each of them: calls in hand, counts."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import resource
import struct
from enum import IntEnum
from time import sleep
from typing import TYPE_CHECKING, Final

from tailbite.guards.program.helpers import why_not_started
from tailbite.guards.program.takeover import Deposit
from tailbite.kernel.libc import last_error, libc
from tailbite.kernel.seccomp import NOTIFICATION_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BUFFER_SIZE", "MOST_WORKERS", "Outcome", "SharedPage", "WorkerSlot"]

MOST_WORKERS: Final = 4
"""The number of slots."""

_SLOT_SIZE: Final = 256
BUFFER_SIZE: Final = 2048
"""Of a buffer of at most 1024 bytes (IOCTL_BUFSZ in CPython's Modules/fcntlmodule.c) fcntl.ioctl makes a copy, and a
call received into that is lost when the process is killed before it is copied back."""
_COUNTS_AT: Final = 128
_GUARDED_AT: Final = MOST_WORKERS * _SLOT_SIZE
_TAKEOVERS_AT: Final = _GUARDED_AT + 8
_MOVES_AT: Final = _TAKEOVERS_AT + 8
_HOLDS_ALWAYS_AT: Final = _MOVES_AT + 8
_REASON_AT: Final = _HOLDS_ALWAYS_AT + 8
_LONGEST_REASON: Final = 512
_MOST_PENDING: Final = 8192
_PENDING_SIZE: Final = 8 * _MOST_PENDING
_FEW_DESCRIPTORS: Final = 64
_MOST_TRIES: Final = 8
"""A call that is left by so many killed workers is let run unguarded: it may be the call itself that ends them."""

_MFD_CLOEXEC: Final = 1

_LEAD: Final = MOST_WORKERS
_LEAD_TRIES: Final = 20
_LEAD_PAUSE: Final = 0.01
_FLOCK: Final = struct.Struct("@hhqqi4x")
"""struct flock on 64-bit machines (include/uapi/asm-generic/fcntl.h)."""


class Outcome(IntEnum):
    """The result of an inspected connect call; its value is its place in the counts."""

    PASSED = 0
    """Nothing was needed: not an Internet address, or the port lies outside the ephemeral range."""
    STEERED = 1
    """The socket got a range of source ports without the destination's."""
    RELEASED = 2
    """The kernel had chosen exactly that port for a bind to port 0; the socket was unbound and bound to another."""
    HELD = 3
    """The destination port was held while the call ran."""
    LEFT = 4
    """The program itself had bound the socket to the destination's port."""
    UNSEEN = 5
    """The caller or its network namespace could not be inspected, so this connect was not guarded."""
    OUT_OF_REACH = 6
    """The kernel could not choose the destination port within the next connects, so it was not held."""


class WorkerSlot:
    """One worker's part of the page.

    The kernel writes a received call straight to its beginning, so the successor of a killed worker finds the call
    that waits for an answer, however early the worker died.

    Attributes:
        number: 0 for the worker that is always there.
        call: the memory of a ``struct seccomp_notif``.
        buffer: the same and what follows it, more than fcntl.ioctl copies.
        counts: number of calls per Outcome, indexed by its value.
        moves: one number for all workers: how often a thread moved to another network namespace or descriptor table.
        holds_always: one byte for all workers: not 0 once ports are held even if they are out of reach, because the
            program has given a socket a range of its own (if the filter reports that), or a helper was killed.
        pending: a number for each call under way for which the worker holds a port, or may have to.
        deposit: keeps the holding sockets of a killed worker open; None without one.
    """

    def __init__(self, page: memoryview, number: int) -> None:
        at = number * _SLOT_SIZE
        self.number = number
        self.call = page[at : at + NOTIFICATION_SIZE]
        self.buffer = page[at : at + BUFFER_SIZE]
        words = page[at + _COUNTS_AT : at + _SLOT_SIZE].cast("Q")
        self.counts = words[: len(Outcome)]
        pending_at = mmap.PAGESIZE + number * _PENDING_SIZE
        self.pending = page[pending_at : pending_at + _PENDING_SIZE].cast("Q")
        self.deposit: Deposit | None = None
        self.holds_always = page[_HOLDS_ALWAYS_AT : _HOLDS_ALWAYS_AT + 1]
        self.moves = page[_MOVES_AT : _MOVES_AT + 8].cast("Q")
        self._tries = words[len(Outcome) :]  # the id of the call tried last, and how often it was tried

    @property
    def call_id(self) -> int:
        """The id of the call received last; 0 before the first one."""
        return int.from_bytes(self.call[:8], "little")

    def try_again(self, call_id: int) -> bool:
        """Count one more try of a call that a killed worker left; False if the call has ended too many workers."""
        if self._tries[0] != call_id:
            self._tries[0], self._tries[1] = call_id, 0
        self._tries[1] += 1
        return self._tries[1] <= _MOST_TRIES


def _anonymous_file() -> int:
    """Return a file that has no name, to be locked.

    ``os.memfd_create`` is missing in a Python that was built with the headers of an older C library, as uv's and
    conda's; the C library that runs may have it (glibc 2.27).
    """
    if not hasattr(libc(), "memfd_create"):
        from tempfile import gettempdir

        return os.open(gettempdir(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    descriptor = libc().memfd_create(b"tailbite-guard", _MFD_CLOEXEC)
    if descriptor < 0:
        raise last_error("memfd_create")
    return int(descriptor)


class SharedPage:
    """The memory that all helpers map.

    Attributes:
        slots: a slot for each worker there may be.
        descriptor: the file whose locks say which slots are in use.
    """

    def __init__(self) -> None:
        self.descriptor = _anonymous_file()
        size = mmap.PAGESIZE + MOST_WORKERS * _PENDING_SIZE
        page = memoryview(mmap.mmap(-1, size))  # no file: a limit of file sizes (RLIMIT_FSIZE) does not matter
        self.slots = tuple(WorkerSlot(page, number) for number in range(MOST_WORKERS))
        self._guarded = page[_GUARDED_AT : _GUARDED_AT + 1]
        self._reason = page[_REASON_AT : _REASON_AT + _LONGEST_REASON]
        self._takeovers = page[_TAKEOVERS_AT : _TAKEOVERS_AT + 8].cast("Q")

    def open_deposits(self, count: int) -> None:
        """Give the first slots a deposit each, unless descriptors are scarce; call this before workers are forked."""
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= _FEW_DESCRIPTORS:
            for slot in self.slots[:count]:
                slot.deposit = Deposit()

    def take_lead(self) -> bool:
        """Become the one process that starts the others; False if another process has become that.

        A process that does not get the lead waits until worker 0 has been there for a moment: the one that has the
        lead may be killed too, before it could start anything.
        """
        found = 0
        while not self._try_lock(_LEAD):
            found = found + 1 if self._is_locked(0) else 0
            if found > _LEAD_TRIES:
                return False
            sleep(_LEAD_PAUSE)
        return True

    def take_slot(self, number: int) -> WorkerSlot:
        """Wait until no other process uses a slot, and take it; it is free again when this process ends.

        Two processes that receive calls into the same slot would answer each other's, so the lock is one that the
        kernel takes from a killed process (fcntl(2), record locks).
        """
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX, 1, number)
        return self.slots[number]

    def try_slot(self, number: int) -> WorkerSlot | None:
        """Take a slot; None if another process uses it."""
        return self.slots[number] if self._try_lock(number) else None

    def free_slot(self, number: int) -> None:
        """Leave a slot to another process."""
        fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, number)

    def used_slots(self) -> list[int]:
        """Return the numbers of the slots that other processes use."""
        return [slot.number for slot in self.slots if self._is_locked(slot.number)]

    def _is_locked(self, number: int) -> bool:
        """Tell whether another process has a lock, without a moment in which this one has it."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        kind, *_ = _FLOCK.unpack(fcntl.fcntl(self.descriptor, fcntl.F_GETLK, asked))
        return bool(kind != fcntl.F_UNLCK)

    def _try_lock(self, number: int) -> bool:
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        return True

    @property
    def is_guarded(self) -> bool:
        """True once the program is under its guard."""
        return bool(self._guarded[0])

    @is_guarded.setter
    def is_guarded(self, value: bool) -> None:
        self._guarded[0] = value

    @property
    def reason(self) -> str:
        """The reason why the program is not guarded, if a process has found one."""
        return bytes(self._reason).rstrip(b"\0").decode(errors="replace")

    @reason.setter
    def reason(self, text: str) -> None:
        self._reason[:] = text.encode()[:_LONGEST_REASON].ljust(_LONGEST_REASON, b"\0")

    @contextlib.contextmanager
    def leaving_reason(self) -> Iterator[None]:
        """Leave the reason why a helper ends before it could guard."""
        try:
            yield
        except (OSError, MemoryError) as error:
            self.reason = why_not_started(error)

    def record_takeover(self) -> None:
        """Count a helper that takes over from one that was killed, and hold ports always from now on.

        A held port stays held when its worker is killed. One that is out of reach is in danger until another process
        has inspected it, and who kills one helper may kill more.
        """
        self._takeovers[0] += 1
        self.slots[0].holds_always[0] = True

    def counts_by_name(self) -> dict[str, int]:
        """Return the number of calls per outcome, and how often a helper took over from a killed one."""
        counts = {outcome.name.lower(): sum(slot.counts[outcome] for slot in self.slots) for outcome in Outcome}
        return {**counts, "takeovers": self._takeovers[0]}
