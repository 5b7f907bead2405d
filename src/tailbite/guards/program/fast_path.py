"""The usual connect of a guarded program, looked at with as little Python as can be.

The program waits meanwhile, and shares its CPU and caches with the worker: each further object, frame and module that
is touched here costs it a tenth of a microsecond and more. So this is one loop that calls the C library with
everything prepared. What it does not know it leaves to :mod:`tailbite.guards.program.steerer`, which knows all cases
and tells it what is usual.
"""

from __future__ import annotations

import ctypes
import socket
from random import random
from time import monotonic
from typing import TYPE_CHECKING, Final

from tailbite.guards.program.shared_page import Outcome
from tailbite.kernel.libc import quick_libc
from tailbite.kernel.memory import Vector
from tailbite.kernel.pidfd import PIDFD_GETFD
from tailbite.kernel.sockopt import IP_LOCAL_PORT_RANGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.guards.program.shared_page import Tally
    from tailbite.kernel.seccomp import Listener

__all__ = ["Usual"]

_AF_INET, _AF_INET6, _IPPROTO_IP = int(socket.AF_INET), int(socket.AF_INET6), int(socket.IPPROTO_IP)
_ADDRESS_LENGTH: Final = 28  # sizeof(struct sockaddr_in6)
_SHORTEST: Final = 8  # family, port, and some more


class Usual:
    """What is known of the connects that need no thought, and the loop that sees to them.

    Args:
        listener: where calls come from.
        tally: where they are counted.
        connect: the number of connect(2) on this machine.

    Attributes:
        until: when all of this is to be thought over again, on the monotonic clock.
        at_home: pidfds of threads that are in the supervisor's network namespace.
        sides: for a destination port the lower side's share of the source ports, and the two values of
            IP_LOCAL_PORT_RANGE that leave the port out; None for a port outside the ephemeral range.
        serve: waits for calls and sees to them until one is in hand that is not a usual one (True), or a wait ended
            without a call (False).
    """

    def __init__(self, listener: Listener, tally: Tally, connect: int) -> None:
        self.until = 0.0
        self.at_home: dict[int, int] = {}
        self.sides: dict[int, tuple[float, int, int] | None] = {}
        self.serve = self._make_serve(listener, tally, connect)

    def forget(self) -> None:
        """Take nothing as usual from now on."""
        self.until = 0.0
        self.at_home.clear()
        self.sides.clear()

    def _make_serve(self, listener: Listener, tally: Tally, connect: int) -> Callable[[], bool]:
        at_home, sides, counts = self.at_home, self.sides, tally.counts
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
        own_range = memoryview(option).cast("B").cast("i")
        option_at, option_size_at = ctypes.byref(option), ctypes.byref(option_size)
        name_at, name_size_at = ctypes.byref(name), ctypes.byref(name_size)
        passed, steered = int(Outcome.PASSED), int(Outcome.STEERED)

        def serve() -> bool:
            while receive():
                tid = words[2]
                pidfd = at_home.get(tid)
                if pidfd is None or words[4] != connect or monotonic() > self.until:
                    return True
                address[0] = long_words[5]
                if process_vm_readv(tid, here, 1, there, 1, 0) < _SHORTEST:
                    return True
                if (family := peer_bytes[0]) != _AF_INET and family != _AF_INET6:
                    return True
                port = peer_bytes[2] << 8 | peer_bytes[3]
                found = sides.get(port, ())
                if found:
                    copy = syscall(PIDFD_GETFD, pidfd, words[8], 0)
                    if copy < 0:
                        return True
                    is_steered = False
                    if (
                        getsockopt(copy, _IPPROTO_IP, IP_LOCAL_PORT_RANGE, option_at, option_size_at) == 0
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
            return False

        return serve
