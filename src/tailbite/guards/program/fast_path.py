"""The fast path: the common connect of a guarded program, inspected with as little Python as can be.

The program waits meanwhile, and shares its CPU and caches with the worker. Each further object, frame or module that
is used here costs the program a tenth of a microsecond or more. So this is one loop with everything prepared. Where
it can, it calls what Python has built in, which takes less time than the same through ctypes, except where Python
would make text of the answer. Any other call it leaves to the slow path, :mod:`tailbite.guards.program.steerer`,
which knows all cases and fills the cache that this loop reads.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import sys
from random import random
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from tailbite.guards.program.shared_page import BUFFER_SIZE, Outcome
from tailbite.kernel import seccomp
from tailbite.kernel.kcmp import shares_memory
from tailbite.kernel.libc import quick_libc
from tailbite.kernel.pidfd import PIDFD_GETFD
from tailbite.kernel.sockopt import IP_LOCAL_PORT_RANGE, SO_NETNS_COOKIE

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from tailbite.guards.program.shared_page import WorkerSlot
    from tailbite.kernel.seccomp import Listener

    SubRanges: TypeAlias = tuple[int, float, int, int]

__all__ = ["HEAD_LENGTH", "FastPath", "open_memory"]

HEAD_LENGTH: Final = 4
"""Of a ``struct sockaddr_in`` or ``sockaddr_in6`` these bytes are its family and its port."""

_HEAD_OF_UNIX: Final = struct.pack("=H", socket.AF_UNIX)
_SAMPLE: Final = 63
_ENOUGH: Final = 3
_PAUSE: Final = 0.05
_THREADS_FRESH_FOR: Final = 0.05
"""Seconds within which no number of an ended thread is given to another one: all others are given first."""

_MOST: Final = 256
_NO_CALL: Final = (errno.ENOENT, errno.EINTR)
_LONGEST_NAME: Final = 128
"""sizeof(struct sockaddr_storage)."""

# struct seccomp_notif: id, pid, nr, the lower half of args[0], args[1].
_CALL: Final = struct.Struct("=QI4xi12xI4xQ")


class Backlog:
    """A check whether calls queue up; then another worker helps.

    After one call in 64 (the kernel numbers them in turn), the worker asks the kernel whether the next one already
    waits. A program with one thread cannot have made it that soon. If three answers in a row are yes, the worker asks
    the monitor for another one.
    """

    def __init__(self, listener: Listener, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._poll = select.poll()
        self._poll.register(listener.descriptor, select.POLLIN)
        self._found = 0
        self._asked = 0.0

    def sample(self) -> None:
        """Check whether a call waits, right after one was answered."""
        if not any(event & select.POLLIN for _, event in self._poll.poll(0)):
            self._found = 0
            return
        self._found += 1
        if self._found >= _ENOUGH and monotonic() > self._asked + _PAUSE:
            self._found, self._asked = 0, monotonic()
            self._ask()


class FastPath:
    """Cache of steering decisions for the fast path, and the loop that applies them.

    Args:
        listener: the listener that calls come from.
        slot: the counts of the worker, and where the listener writes to.
        connect: the number of connect(2) on this machine.
        home_cookie: the cookie of the supervisor's own network namespace; empty if this kernel has none.
        ask: called when calls queue up, to ask for another worker.

    Attributes:
        until: monotonic time at which the port range has to be read again.
        moves: the count of moves (:class:`~tailbite.guards.program.shared_page.WorkerSlot`) that the cache knows of.
    """

    def __init__(
        self, listener: Listener, slot: WorkerSlot, connect: int, home_cookie: bytes, ask: Callable[[], None]
    ) -> None:
        self.until = 0.0
        self.moves = slot.moves[0]
        self._listener = listener
        self._slot = slot
        self._connect = connect
        self._home_cookie = home_cookie
        self._threads_until = 0.0
        self._ranges: object = None
        self._threads: dict[int, tuple[int, int]] = {}
        self._heads: dict[bytes, SubRanges | None] = {}
        self._sample = Backlog(listener, ask).sample
        self._receive_instead = _receiver(listener)
        self._response = bytearray(seccomp.LET_RUN.ljust(BUFFER_SIZE, b"\0"))
        self._name = _Name()

    def refresh(self, ranges: object, until: float) -> None:
        """Use the cache until the port range has to be read again; drop entries that are too old.

        Args:
            ranges: the port range that decisions are made from; another object than before is another range.
            until: monotonic time.
        """
        if ranges is not self._ranges:
            self._heads.clear()
            self._ranges = ranges
        if (now := monotonic()) > self._threads_until:
            self._threads.clear()
            self._threads_until = now + _THREADS_FRESH_FOR
        self.until = until

    def learn(self, tid: int, pidfd: int, memory: int, head: bytes, sub_ranges: SubRanges | None) -> None:
        """Handle the next calls of a thread to a destination here.

        Args:
            tid: a thread that connected from the supervisor's own network namespace.
            pidfd: its pidfd.
            memory: a descriptor of its memory.
            head: the first bytes of the destination's address.
            sub_ranges: the destination's port, the lower sub-range's share of the source ports, and the two values of
                IP_LOCAL_PORT_RANGE that leave the port out; None for a port outside the ephemeral range.
        """
        if len(self._heads) >= _MOST:
            self._heads.clear()
        self._threads[tid] = pidfd, memory
        self._heads[head] = None if sub_ranges is None else (socket.htons(sub_ranges[0]), *sub_ranges[1:])

    def forget(self) -> None:
        """Leave the next calls to the slow path."""
        self.until = 0.0
        self._threads.clear()
        self._heads.clear()

    def forget_thread(self, tid: int) -> None:
        """Leave the next calls of a thread to the slow path."""
        self._threads.pop(tid, None)

    def serve(self) -> bool:
        """Handle calls until one needs the slow path (True), or until a wait has ended without a call (False).

        Raises:
            OSError: the listener no longer works.
        """
        # The names of this function are found sooner than all others.
        slot, threads, heads, views, sample = self._slot, self._threads, self._heads, _views, self._sample
        counts, moves, call, buffer, receive_instead = (
            slot.counts,
            slot.moves,
            slot.call,
            slot.buffer,
            self._receive_instead,
        )
        unpack, zeros, all_bytes = _CALL.unpack_from, bytes(seccomp.NOTIFICATION_SIZE), slice(None)
        response = self._response
        response_id = memoryview(response)[:8].cast("Q")
        descriptor, receive, answer, connect = (
            self._listener.descriptor,
            seccomp.RECEIVE,
            seccomp.ANSWER,
            self._connect,
        )
        ioctl, pread, close, chance, clock = fcntl.ioctl, os.pread, os.close, random, monotonic
        syscall, getfd, getsockname, name = quick_libc().syscall, PIDFD_GETFD, quick_libc().getsockname, self._name
        name_words, name_at, length_at = name.words, name.at, name.length_at
        sol_socket, cookie_option, home_cookie = int(socket.SOL_SOCKET), SO_NETNS_COOKIE, self._home_cookie
        ipproto_ip, range_option, head_length = int(socket.IPPROTO_IP), IP_LOCAL_PORT_RANGE, HEAD_LENGTH
        passed, steered, unknown, sample_mask = int(Outcome.PASSED), int(Outcome.STEERED), (), _SAMPLE
        steered_count = counts[steered]
        try:
            while True:
                call[all_bytes] = zeros  # as the kernel demands
                if receive_instead is None:
                    ioctl(descriptor, receive, buffer)
                else:
                    receive_instead()
                call_id, tid, number, target, address = unpack(buffer)
                thread = threads.get(tid)
                if thread is None or number != connect or clock() > self.until or moves[0] != self.moves:
                    return True
                pidfd, memory = thread
                head = pread(memory, head_length, address)
                found = heads.get(head, unknown)
                if found:
                    copy = syscall(getfd, pidfd, target, 0)
                    if copy < 0:
                        return True
                    getsockopt, setsockopt = views[copy]
                    port, share, lower, upper = found
                    try:
                        if (
                            getsockopt(sol_socket, cookie_option, 8) != home_cookie
                            or getsockopt(ipproto_ip, range_option)
                            or getsockname(copy, name_at, length_at)
                            or name_words[1] == port
                        ):
                            return True
                        setsockopt(ipproto_ip, range_option, lower if chance() < share else upper)
                    finally:
                        close(copy)
                    counts[steered] = steered_count = steered_count + 1
                elif found is None or head[:2] == _HEAD_OF_UNIX:
                    counts[passed] += 1
                else:
                    return True
                response_id[0] = call_id
                ioctl(descriptor, answer, response)
                if not call_id & sample_mask:
                    sample()
        except (OSError, OverflowError) as error:
            return self._needs_slow_path(error)

    def _needs_slow_path(self, error: OSError | OverflowError) -> bool:
        reason = error.errno if isinstance(error, OSError) else 0
        if self._listener.call_id:  # else the kernel wrote no call; an answer comes too late if the caller has gone
            return reason not in seccomp.NOT_WAITING
        if reason in _NO_CALL:
            return False
        raise error


class _Name:
    """The place for the answer of getsockname(2), which Python would turn into text at twice the price.

    Attributes:
        words: the family, the port in network byte order, and the rest.
        at: where the kernel writes the name.
        length_at: the size of that place: afterwards the size of the name, so only names of Internet sockets may be
            asked for, or the next answer could be cut off before its port.
    """

    def __init__(self) -> None:
        memory = bytearray(_LONGEST_NAME)
        self.words = memoryview(memory).cast("H")
        self.at = ctypes.byref((ctypes.c_char * _LONGEST_NAME).from_buffer(memory))
        self.length_at = ctypes.byref(ctypes.c_uint32(_LONGEST_NAME))


def _receiver(listener: Listener) -> Callable[[], object] | None:
    """Return what to call instead of fcntl.ioctl to wait for a call; None if that does.

    A signal must end the wait. fcntl.ioctl returns then in Python 3.11 to 3.13; a later one may wait again.
    """
    return None if sys.version_info < (3, 14) else listener.receive_or_raise


class _Views(dict[int, Any]):
    """By descriptor, the methods of a socket object for whatever socket has that number at the time."""

    def __missing__(self, descriptor: int) -> Any:
        # Python asks the kernel nothing if all are given.
        sock = socket.SocketType(socket.AF_INET6, socket.SOCK_STREAM, 0, descriptor)
        self[descriptor] = methods = sock.getsockopt, sock.setsockopt
        return methods


_views: Final = _Views()
"""Never emptied: the end of such an object would close a descriptor that is not its own."""


def open_memory(tid: int) -> int:
    """Return a descriptor of the memory of a thread: what the fast path reads addresses from.

    /proc/PID/mem is read in half the time of process_vm_readv(2), but it stays with the memory that the process had
    when the file was opened. After execve(2) that memory is gone and nothing is read, unless another process has it
    too: the parent of a child of vfork(2) that connects before and after it executes its program.

    Raises:
        OSError: the thread cannot be inspected; EBUSY, its process may have its memory in common with its parent.
    """
    if shares_memory(tid, _parent_of(tid)):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    return os.open(f"/proc/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)


def _parent_of(tid: int) -> int:
    with open(f"/proc/{tid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - pathlib takes 4 ms to load
        return int(file.read().rpartition(b") ")[2].split()[1])
