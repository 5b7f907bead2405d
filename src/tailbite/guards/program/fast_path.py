"""The fast path: the common connect of a guarded program, inspected with as little Python as can be.

The program waits meanwhile, and shares its CPU and caches with the worker: each further object, frame and module that
is touched here costs it a tenth of a microsecond and more. So this is one loop that calls the C library with
everything prepared. Any other call it leaves to the slow path, :mod:`tailbite.guards.program.steerer`, which knows
all cases and fills the cache that this loop reads.
"""

from __future__ import annotations

import ctypes
import select
import socket
from random import random
from time import monotonic
from typing import TYPE_CHECKING, Final

from tailbite.guards.program.shared_page import Outcome
from tailbite.kernel.libc import quick_libc
from tailbite.kernel.memory import Vector
from tailbite.kernel.pidfd import PIDFD_GETFD
from tailbite.kernel.sockopt import IP_LOCAL_PORT_RANGE, SO_NETNS_COOKIE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.guards.program.shared_page import WorkerSlot
    from tailbite.kernel.seccomp import Listener

__all__ = ["FastPath"]

_AF_UNIX, _AF_INET, _AF_INET6 = int(socket.AF_UNIX), int(socket.AF_INET), int(socket.AF_INET6)
_IPPROTO_IP, _SOL_SOCKET = int(socket.IPPROTO_IP), int(socket.SOL_SOCKET)
_ADDRESS_LENGTH: Final = 28  # sizeof(struct sockaddr_in6)
_SHORTEST: Final = 8  # family, port, and some more
_SAMPLE: Final = 15
_ENOUGH: Final = 3
_PAUSE: Final = 0.05


class Backlog:
    """The sign that calls queue up, which is when another worker helps.

    After one call in 16, the worker asks the kernel whether the next one waits already. A program with one thread
    cannot have made it that soon; if three answers in a row are yes, the monitor is asked for a worker.
    """

    def __init__(self, listener: Listener, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._poll = select.poll()
        self._poll.register(listener.descriptor, select.POLLIN)
        self._found = 0
        self._asked = 0.0

    def sample(self) -> None:
        """Look whether a call waits, right after one was answered."""
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
        slot: the counts of the worker.
        connect: the number of connect(2) on this machine.
        home_cookie: the cookie of the supervisor's own network namespace; empty if this kernel has none.
        ask: called when calls queue up, to ask for another worker.

    Attributes:
        until: monotonic time at which the cache expires.
        at_home: pidfds of threads that connected from the supervisor's own network namespace.
        sides: for a destination port the lower side's share of the source ports, and the two values of
            IP_LOCAL_PORT_RANGE that leave the port out; None for a port outside the ephemeral range.
        serve: handles calls; returns True when a call needs the slow path, False when a wait ended without a call.
    """

    def __init__(
        self, listener: Listener, slot: WorkerSlot, connect: int, home_cookie: bytes, ask: Callable[[], None]
    ) -> None:
        self.until = 0.0
        self.at_home: dict[int, int] = {}
        self.sides: dict[int, tuple[float, int, int] | None] = {}
        self._sample = Backlog(listener, ask).sample
        self.serve = self._make_serve(listener, slot, connect, home_cookie)

    def forget(self) -> None:
        """Leave the next calls to the slow path."""
        self.until = 0.0
        self.at_home.clear()
        self.sides.clear()

    def _make_serve(
        self, listener: Listener, slot: WorkerSlot, connect: int, home_cookie: bytes
    ) -> Callable[[], bool]:
        at_home, sides, counts = self.at_home, self.sides, slot.counts
        sample = self._sample
        libc = quick_libc()
        process_vm_readv, syscall, close = libc.process_vm_readv, libc.syscall, libc.close
        getsockopt, setsockopt, getsockname = libc.getsockopt, libc.setsockopt, libc.getsockname
        receive, answer = listener.receive, listener.answer
        # struct seccomp_notif in words of 4 and of 8 bytes: pid, nr and args[0] here, args[1] there.
        words, long_words = listener.call.cast("I"), listener.call.cast("Q")
        peer, name = ctypes.create_string_buffer(_ADDRESS_LENGTH), ctypes.create_string_buffer(_ADDRESS_LENGTH)
        peer_bytes, name_bytes = memoryview(peer).cast("B"), memoryview(name).cast("B")
        vectors = Vector(ctypes.addressof(peer), _ADDRESS_LENGTH), Vector(0, _ADDRESS_LENGTH)
        address = memoryview(vectors[1]).cast("B").cast("Q")
        here, there = map(ctypes.byref, vectors)
        option, option_size, name_size = ctypes.c_int(), ctypes.c_uint32(4), ctypes.c_uint32(_ADDRESS_LENGTH)
        cookie, cookie_size = ctypes.c_uint64(), ctypes.c_uint32(8)
        own_range, cookie_word = memoryview(option).cast("B").cast("i"), memoryview(cookie).cast("B").cast("Q")
        option_at, option_size_at = ctypes.byref(option), ctypes.byref(option_size)
        cookie_at, cookie_size_at = ctypes.byref(cookie), ctypes.byref(cookie_size)
        name_at, name_size_at = ctypes.byref(name), ctypes.byref(name_size)
        home = int.from_bytes(home_cookie, "little")
        passed, steered = int(Outcome.PASSED), int(Outcome.STEERED)
        calls = 0

        def serve() -> bool:
            nonlocal calls
            while receive():
                tid = words[2]
                pidfd = at_home.get(tid)
                if pidfd is None or words[4] != connect or monotonic() > self.until:
                    return True
                address[0] = long_words[5]
                if process_vm_readv(tid, here, 1, there, 1, 0) < _SHORTEST:
                    return True
                family = peer_bytes[0]
                if family == _AF_UNIX and not peer_bytes[1]:
                    counts[passed] += 1
                elif family != _AF_INET and family != _AF_INET6:
                    return True
                else:
                    port = peer_bytes[2] << 8 | peer_bytes[3]
                    found = sides.get(port, ())
                    if found:
                        copy = syscall(PIDFD_GETFD, pidfd, words[8], 0)
                        if copy < 0:
                            return True
                        is_steered = False
                        if (
                            getsockopt(copy, _SOL_SOCKET, SO_NETNS_COOKIE, cookie_at, cookie_size_at) == 0
                            and cookie_word[0] == home
                            and getsockopt(copy, _IPPROTO_IP, IP_LOCAL_PORT_RANGE, option_at, option_size_at) == 0
                            and own_range[0] == 0
                            and getsockname(copy, name_at, name_size_at) == 0
                            and name_bytes[2] << 8 | name_bytes[3] != port
                        ):
                            share, lower, upper = found
                            own_range[0] = lower if random() < share else upper
                            is_steered = setsockopt(copy, _IPPROTO_IP, IP_LOCAL_PORT_RANGE, option_at, 4) == 0
                        close(copy)
                        if not is_steered:
                            return True
                        counts[steered] += 1
                    elif found is None:
                        counts[passed] += 1
                    else:
                        return True
                answer()
                calls += 1
                if not calls & _SAMPLE:
                    sample()
            return False

        return serve
