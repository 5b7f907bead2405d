"""Holding a port, so that the kernel does not choose it as source port, in a way that hardly any server notices.

``connect()`` without a bound port skips every port that has a bind bucket made by a bind(2), whatever address that
bind was for, and whatever its family (``__inet_hash_connect``: ``fastreuse >= 0``). bind(2) of a server on the other
hand compares addresses. So the port is held on an address that no server uses: IPv6's discard prefix, bound with
IP_FREEBIND. Measured on Linux 6.18, while it is held: servers on 127.0.0.1, 0.0.0.0 and ::1 start with and without
SO_REUSEADDR; one on [::] starts with SO_REUSEADDR (node, Java, Go and nginx set it) and not without.

Holding does not keep the port away from a client that binds to port 0 before it connects: bind(2) looks at addresses
then too.

Around one connect call, the port is held only if the kernel can choose it within the next connects
(:mod:`tailbite.guards.program.lookahead`), for the sake of servers on [::].

A port that is held is held until the call is over, and one that is out of reach is inspected again until
then, and held if it comes near. The caller runs again within microseconds, unless
the CPUs are busy: a process of low priority, or one whose CPU quota is used up, may not run for seconds. So the port
is released when one of these shows that the kernel has chosen a source port for the call:

=====================================================  ==============================================================
event                                                  evidence
=====================================================  ==============================================================
the same thread makes another call                     the first one is over
the thread has ended                                   likewise
the thread sleeps (``S`` in /proc/TID/stat)            it waits for the answer to its SYN, or is in another call
the thread is stopped (``T``, ``t``)                   a thread stops when it returns from a call (signal(7))
the thread waits (``D``) in another call               /proc/TID/syscall names the call
the thread has run for 0.5 s (/proc/TID/schedstat)     the search through a full range takes less than 5 ms; a
                                                       virtual CPU may count time in which its host ran others
=====================================================  ==============================================================
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final

from tailbite.guards.program.lookahead import Lookahead

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.guards.program.lookahead import LocalDestination

__all__ = ["Holds", "hold"]

_IP_FREEBIND = 15  # ip(7); works on AF_INET6 sockets as well
_UNUSED_ADDRESSES = ("100::1", socket.AF_INET6), ("192.0.2.1", socket.AF_INET)  # RFC 6666; RFC 5737 without IPv6

_FIRST_PAUSE: Final = 0.0001
_LONGEST_PAUSE: Final = 0.02
_LONGEST_PAUSE_UNHELD: Final = 0.002
_SEARCH_TIME: Final = 0.5
_PATIENCE: Final = 1.0
"""Seconds for which a port is held around the call of a thread whose state cannot be read."""

_MOST: Final = 256
_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")


def hold(port: int) -> socket.socket:
    """Return a socket that keeps the kernel from choosing ``port`` as source port until it is closed.

    Raises:
        OSError: EADDRINUSE, a server has it, so the kernel does not choose it anyway; EACCES, the port is privileged.
    """
    for host, family in _UNUSED_ADDRESSES:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            if family == socket.AF_INET:
                raise
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            sock.bind((host, port))
            return sock
        except OSError:
            sock.close()
            if family == socket.AF_INET:
                raise
    raise AssertionError("unreachable")


@dataclass(slots=True)
class _Call:
    """A connect call that may still be under way.

    Attributes:
        key: the network namespace and the port that is held for the call.
        unheld: the destination while its port is out of reach; None while the port is held.
        run_time: seconds that the thread had run when the call was let go on; None if that cannot be read.
        until: when to release the port if nothing can be read of the thread, on the monotonic clock.
    """

    key: tuple[object, int]
    unheld: LocalDestination | None
    run_time: float | None
    until: float


class Holds:
    """The ports held around connect calls that are under way.

    Args:
        connect: the number of connect(2) on this machine.
    """

    def __init__(self, connect: int) -> None:
        self._connect = connect
        self._calls: dict[int, _Call] = {}  # by thread
        self._sockets: dict[tuple[object, int], socket.socket] = {}
        self._pause = _FIRST_PAUSE
        self._lookahead: Lookahead | None = Lookahead()

    def hold_always(self) -> None:
        """Hold ports even if they are out of reach: sockets may have a sequence of source ports of their own."""
        self._lookahead = None
        for call in list(self._calls.values()):
            self._hold_after_all(call)

    def hold_during_call(
        self,
        tid: int,
        port: int,
        place: object = None,
        hold_there: Callable[[int], socket.socket] = hold,
        *,
        destination: LocalDestination | None = None,
    ) -> bool:
        """Keep ``port`` from being chosen until the call that thread ``tid`` is about to make is over.

        Args:
            tid: the caller.
            port: the port.
            place: the name of a network namespace; None is this process's own.
            hold_there: holds a port in that namespace.
            destination: where the call connects to; None holds the port even if it is out of reach.

        Returns:
            False if the port is out of reach, and therefore not held.

        Raises:
            OSError: the port cannot be held, and it is not a server that has it.
        """
        key = place, port
        unheld = None
        if destination is not None and place is None and key not in self._sockets:
            unheld = destination if self._is_out_of_reach(destination) else None
        if unheld is None and not self._hold(key, hold_there):
            return True
        before = self._calls.pop(tid, None)
        self._calls[tid] = _Call(key, unheld, run_time(tid), monotonic() + _PATIENCE)
        if before is not None and before.key != key:
            self._close_unused(before.key)
        self._pause = _FIRST_PAUSE
        if len(self._calls) > _MOST:
            self._release(next(iter(self._calls)))
        return unheld is None

    def _is_out_of_reach(self, destination: LocalDestination) -> bool:
        return self._lookahead is not None and self._lookahead.is_out_of_reach(destination, len(self._calls) + 1)

    def _hold(self, key: tuple[object, int], hold_there: Callable[[int], socket.socket] = hold) -> bool:
        """Hold a port; False if a server has it.

        Raises:
            OSError: the port cannot be held, and it is not a server that has it.
        """
        if key not in self._sockets:
            try:
                self._sockets[key] = hold_there(key[1])
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                return False
        return True

    def _hold_after_all(self, call: _Call) -> None:
        call.unheld = None
        with contextlib.suppress(OSError):  # the call has been let go on, so nobody can be told
            self._hold(call.key)

    def release_over(self) -> float | None:
        """Release the ports of calls that are over; return the seconds until this is due again, or None."""
        if not self._calls:
            return None
        now = monotonic()
        for tid in [tid for tid, call in self._calls.items() if self._is_over(tid, call, now)]:
            self._release(tid)
        self._look_again()
        longest = _LONGEST_PAUSE
        if any(call.unheld is not None for call in self._calls.values()):
            longest = _LONGEST_PAUSE_UNHELD
        pause = min(self._pause, longest)
        self._pause = min(pause * 2, _LONGEST_PAUSE)
        return pause if self._calls else None

    def _look_again(self) -> None:
        """Hold the ports that were out of reach and no longer are, of calls that are not over."""
        near: dict[LocalDestination, bool] = {}
        for call in self._calls.values():
            if (destination := call.unheld) is None or self._lookahead is None:
                continue
            if destination not in near:
                calls = len(self._calls)
                near[destination] = not self._lookahead.is_still_out_of_reach(destination, calls)
            if near[destination]:
                self._hold_after_all(call)

    def close(self) -> None:
        """Release every port."""
        self._calls.clear()
        while self._sockets:
            self._sockets.popitem()[1].close()

    def _is_over(self, tid: int, call: _Call, now: float) -> bool:
        try:
            state = _read(f"/proc/{tid}/stat").rpartition(b") ")[2][:1]
        except (FileNotFoundError, ProcessLookupError):
            return True
        except OSError:
            return now > call.until
        if state == b"R":
            ran = run_time(tid)
            return now > call.until if ran is None or call.run_time is None else ran - call.run_time > _SEARCH_TIME
        if state == b"D":
            return self._is_in_another_call(tid)
        return True

    def _is_in_another_call(self, tid: int) -> bool:
        try:
            number = _read(f"/proc/{tid}/syscall").split()[0]
        except (OSError, IndexError):
            return False
        return number not in (b"running", str(self._connect).encode())

    def _release(self, tid: int) -> None:
        self._close_unused(self._calls.pop(tid).key)

    def _close_unused(self, key: tuple[object, int]) -> None:
        if key in self._sockets and all(call.key != key for call in self._calls.values()):
            self._sockets.pop(key).close()


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
