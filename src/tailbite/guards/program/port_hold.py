"""Holding a port, so that the kernel does not choose it as source port, in a way that disturbs hardly any server.

``connect()`` without a bound port skips every port that has a bind bucket made by a bind(2), whatever address that
bind was for, and whatever its family (``__inet_hash_connect``: ``fastreuse >= 0``). bind(2) of a server on the other
hand compares addresses. So the port is held on an address that no server uses: IPv6's discard prefix, bound with
IP_FREEBIND. Measured on Linux 6.18, while it is held: servers on 127.0.0.1, 0.0.0.0 and ::1 start with and without
SO_REUSEADDR; one on [::] starts with SO_REUSEADDR (node, Java, Go and nginx set it) and not without.

Holding does not keep the port away from a client that binds to port 0 before it connects: bind(2) looks at addresses
then too.

Around one connect call, the port is held only if the kernel can choose it within the next connects
(:mod:`tailbite.guards.program.lookahead`), for the sake of servers on [::].

A port that is held stays held until the call is known to be over (:mod:`tailbite.guards.program.pending_call`), or
the same thread makes its next call. A port that is out of reach is checked again until then, and held if it comes
near. If the holding process is killed, the port stays held, and the process's successor waits for the end of the call
(:mod:`tailbite.guards.program.takeover`). Ports that were out of reach are held before that successor starts, and
from then on no port is left unheld.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final

from tailbite.guards.program.lookahead import Lookahead
from tailbite.guards.program.pending_call import PendingCall
from tailbite.guards.program.takeover import CallTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.guards.program.lookahead import LocalDestination
    from tailbite.guards.program.shared_page import WorkerSlot

__all__ = ["Holds", "hold", "hold_calls_left"]

_IP_FREEBIND = 15  # ip(7); works on AF_INET6 sockets as well
_UNUSED_ADDRESSES = ("100::1", socket.AF_INET6), ("192.0.2.1", socket.AF_INET)  # RFC 6666; RFC 5737 without IPv6
_LAST_RESORT: Final = "127.255.255.254"
"""For a sandbox without IP_FREEBIND. It is an address of every host, so a server on 0.0.0.0 or [::] that does not set
SO_REUSEADDR cannot start meanwhile."""

_FIRST_PAUSE: Final = 0.0001
_LONGEST_PAUSE: Final = 0.02
_LONGEST_PAUSE_UNHELD: Final = 0.002
_INSPECTED_AT_ONCE: Final = 64
"""A program with a thousand threads under way must not wait until each of them has been inspected."""


def hold(port: int) -> socket.socket:
    """Return a socket that keeps the kernel from choosing ``port`` as source port until it is closed.

    Raises:
        OSError: EADDRINUSE, a server has it, so the kernel does not choose it anyway; EACCES, the port is privileged.
    """
    for host, family in _UNUSED_ADDRESSES:
        try:
            return _bound(family, host, port)
        except OSError as error:
            is_last = family == socket.AF_INET
            if is_last and error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise
    return _bound(socket.AF_INET, _LAST_RESORT, port)


def _bound(family: int, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # forbidden in some sandboxes; bind(2) then says EADDRNOTAVAIL
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.bind((host, port))
        return sock
    except BaseException:
        sock.close()
        raise


def hold_calls_left(slot: WorkerSlot) -> None:
    """Hold the ports of a killed worker's calls, until the next worker of its slot knows that the calls are over.

    The successor would hold them too, but it needs some milliseconds to start. No process may use the slot meanwhile.
    """
    if slot.deposit is None:
        return
    for port in {port for _, port, _ in CallTable(slot.pending).calls_left()}:
        with contextlib.suppress(OSError), hold(port) as sock:  # a server may have it, or no descriptor is left
            slot.deposit.leave(sock)


@dataclass(slots=True)
class _Call:
    """A connect call that may still be under way.

    Attributes:
        key: the network namespace and the port that is held for the call.
        unheld: the destination while its port is out of reach; None while the port is held.
        pending: the evidence that the call is over.
        place: the call's place in the table of calls.
    """

    key: tuple[object, int]
    unheld: LocalDestination | None
    pending: PendingCall
    place: int | None


class Holds:
    """The ports held around connect calls that are under way.

    Args:
        numbers: the numbers of the calls that connect on this machine.
        slot: the worker's part of the memory that helpers share; the next worker there continues with these calls.
    """

    def __init__(self, numbers: tuple[int, ...], slot: WorkerSlot) -> None:
        self._numbers = numbers
        self._calls: dict[int, _Call] = {}  # by thread
        self._sockets: dict[tuple[object, int], socket.socket] = {}
        self._pause = _FIRST_PAUSE
        self._lookahead: Lookahead | None = Lookahead()
        self._due = 0.0
        self._holds_always = slot.holds_always
        self._table = CallTable(slot.pending)
        self._deposit = slot.deposit
        self._left: set[int] = set()  # threads
        self._take_over()

    def _take_over(self) -> None:
        """Hold what a killed predecessor held or might have had to hold, until its calls are over."""
        if self._deposit is not None:
            self._deposit.take_over()
        for tid, port, place in self._table.calls_left():
            key = None, port
            with contextlib.suppress(OSError):  # if this process may not hold it, the predecessor's socket does
                self._hold(key)
            self._calls[tid] = _Call(key, None, PendingCall(tid, self._numbers), place)
            self._left.add(tid)
        self._drop_left()

    @property
    def has_pending_calls(self) -> bool:
        """True while a call is not known to be over."""
        return bool(self._calls)

    def hold_always(self) -> None:
        """Hold ports from now on even if they are out of reach, also those of calls under way.

        Necessary where sockets may have a sequence of source ports of their own, and where nobody is going to inspect
        the calls for a moment.
        """
        self._holds_always[0] = True  # all workers must know
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
        self._follow_others()
        self._due = monotonic()
        if self._lookahead is not None and place is None:
            self._lookahead.count_call()
        if destination is not None and place is None and key not in self._sockets:
            unheld = destination if self._is_out_of_reach(destination) else None
        if unheld is None and not self._hold(key, hold_there):
            return True
        before = self._calls.pop(tid, None)
        self._calls[tid] = _Call(key, unheld, PendingCall(tid, self._numbers), self._table.add(tid, port))
        if before is not None:
            self._forget(tid, before)
        self._pause = _FIRST_PAUSE
        return unheld is None

    def _follow_others(self) -> None:
        if self._lookahead is not None and self._holds_always[0]:
            self.hold_always()

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
            if self._deposit is not None:
                self._deposit.add(key, self._sockets[key])
        return True

    def _hold_after_all(self, call: _Call) -> None:
        call.unheld = None
        with contextlib.suppress(OSError):  # the call already continues, so no error can be reported
            self._hold(call.key)

    def release_over(self) -> float | None:
        """Release the ports of calls that are over; return the seconds until this is due again, or None."""
        if not self._calls:
            return None
        self._follow_others()
        now = monotonic()
        if self._lookahead is not None and now > self._due:
            self._lookahead.add_delay(now - self._due)
        for tid in list(itertools.islice(self._calls, _INSPECTED_AT_ONCE)):
            self._inspect(tid)
        self._look_again()
        longest = _LONGEST_PAUSE
        if any(call.unheld is not None for call in self._calls.values()):
            longest = _LONGEST_PAUSE_UNHELD
        pause = min(self._pause, longest)
        self._pause = min(pause * 2, _LONGEST_PAUSE)
        self._due = monotonic() + pause
        return pause if self._calls else None

    def _inspect(self, tid: int) -> None:
        """Release the port of a call if that is over; else inspect the others before it again."""
        if self._calls[tid].pending.is_over():
            self._release(tid)
        else:
            self._calls[tid] = self._calls.pop(tid)

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
        for tid in list(self._calls):
            self._release(tid)

    def _release(self, tid: int) -> None:
        self._forget(tid, self._calls.pop(tid))

    def _forget(self, tid: int, call: _Call) -> None:
        """Forget a call that is over; it is no longer among those under way."""
        self._table.remove(call.place)
        self._close_unused(call.key)
        if tid in self._left:
            self._left.remove(tid)
            self._drop_left()

    def _drop_left(self) -> None:
        if self._deposit is not None and not self._left:
            self._deposit.drop_left()

    def _close_unused(self, key: tuple[object, int]) -> None:
        if key in self._sockets and all(call.key != key for call in self._calls.values()):
            self._sockets.pop(key).close()
            if self._deposit is not None:
                self._deposit.remove(key)
