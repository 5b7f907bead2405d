"""One connect call of another process: look at where it goes, and see to its source port, while it waits.

The call itself then runs in the program, as if nobody had looked: this module changes the program's socket through
a copy of its descriptor. The copy must be closed before the call goes on, or the program's own close() would not be
the last one and no FIN would be sent.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
from random import random
from time import monotonic
from typing import TYPE_CHECKING, Any

from tailbite.core.plan import Means
from tailbite.core.ports import PortRange
from tailbite.guards.program.fast_path import Usual
from tailbite.guards.program.namespaces import Namespaces, cookie
from tailbite.guards.program.port_hold import Holds
from tailbite.guards.program.shared_page import Outcome
from tailbite.kernel import seccomp
from tailbite.kernel.memory import MemoryReader
from tailbite.kernel.pidfd import copy_descriptor, open_thread
from tailbite.kernel.sockopt import IP_LOCAL_PORT_RANGE
from tailbite.kernel.unbind import unbind_chosen_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.guards.program.shared_page import Tally

__all__ = ["Steerer"]

_LOWEST_PORT = 1024
# Plain numbers: an enum's equality would cost more than the rest of the look.
_AF_INET, _AF_INET6, _IPPROTO_IP = int(socket.AF_INET), int(socket.AF_INET6), int(socket.IPPROTO_IP)
_HEAD = struct.Struct("=HBB")  # family, and the port in network byte order
_ADDRESS_LENGTH = 28  # sizeof(struct sockaddr_in6)
_MOST = 256


class Steerer:
    """Sees to calls, one after the other.

    Sockets of other protocols than TCP are steered as well: to ask what a socket is would cost as much as to steer
    it, and a connected UDP socket that is given its peer's port receives what it sends.

    Args:
        abi: this machine's.
        listener: what the calls come from.
        tally: where the usual ones are counted; who calls :meth:`think` counts what that returns.
        copies: descriptors can be copied and sockets steered; otherwise ports are held.
        tell: called with a sentence for each call that something was done about, before it runs; None is silence.

    Attributes:
        serve_usual: sees to usual calls until one needs to be thought about (True), or none comes (False).
        tick: lets go of what was held long enough; returns the seconds until this is due again, or None.
    """

    def __init__(
        self,
        abi: seccomp.Abi,
        listener: seccomp.Listener,
        tally: Tally,
        *,
        copies: bool = True,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._abi = abi
        self._listener = listener
        self._copies = copies
        self._tell = tell
        self._memory = MemoryReader(_ADDRESS_LENGTH)
        self._threads: dict[int, int] = {}
        # The program's limit of descriptors is ours as well, and may be a small one.
        self._most_threads = min(_MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._holds = Holds()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            self._namespaces = Namespaces(cookie(sock))
        self._usual = Usual(listener, tally, abi.connect)
        self.serve_usual = self._usual.serve
        self.tick = self._holds.expire

    def think(self) -> Outcome:
        """See to the call in hand before it is answered. Never raises for anything the caller did."""
        tid, descriptor, address, length = seccomp.parse_call(self._listener.call, self._abi)
        if not tid:
            return Outcome.UNSEEN  # in a pid namespace that is none of ours
        try:
            self._memory.read(tid, address, length)
        except OSError:
            return self._unseen(tid)
        family, high, low = _HEAD.unpack_from(self._memory.room)
        port = high << 8 | low
        if not port or (family != _AF_INET and family != _AF_INET6):
            return Outcome.PASSED
        now = monotonic()
        ranges = self._namespaces.own(now)
        is_in_range = ranges.ephemeral is None or port in ranges.ephemeral
        if not self._copies:
            return self._hold(tid, port) if is_in_range else Outcome.PASSED
        if not is_in_range and port < _LOWEST_PORT:
            return Outcome.PASSED
        try:
            copy = self._copy(tid, descriptor)
        except OSError:
            return self._unseen(tid, self._destination())
        if copy is None:
            return Outcome.PASSED  # no such descriptor: the call will say so
        sock = None
        try:
            # The type below socket.socket, all three properties given: so Python neither wraps nor asks.
            sock = socket.SocketType(family, socket.SOCK_STREAM, 0, fileno=copy)
            if not (is_home := self._namespaces.is_home(sock)):
                foreign = self._namespaces.foreign(sock, tid)
                if foreign is None:
                    return self._unseen(tid, self._destination())
                ranges = foreign
            own = sock.getsockopt(_IPPROTO_IP, IP_LOCAL_PORT_RANGE)
            means, lower_share, lower, upper = ranges.steer(port, own)
            if is_home and own == 0:
                self._take_as_usual(tid, port, ranges.until, means, (lower_share, lower, upper))
            if means is Means.STEER:
                return self._steer(tid, sock, port, lower if random() < lower_share else upper)
            # P alone is no range to draw from: then EADDRNOTAVAIL is the truth.
            return Outcome.PASSED if means is Means.NOTHING else self._hold(tid, port)
        except OSError:
            return Outcome.PASSED  # no socket: the call will say so
        finally:
            os.close(copy) if sock is None else sock.close()

    def _steer(self, tid: int, sock: Any, port: int, side: int) -> Outcome:
        name = sock.getsockname()
        outcome = Outcome.STEERED
        if name[1] == port:
            # The kernel drew it for a bind to port 0, or the program named it, or it is the memory of a failed
            # connect, which getsockname(2) shows until the next one.
            unbind_chosen_port(sock)
        sock.setsockopt(_IPPROTO_IP, IP_LOCAL_PORT_RANGE, side)
        if name[1] == port:
            outcome = _bind_again(sock, name)
        if self._tell is not None:
            self._tell(f"{_who(tid)} connects to {self._destination()}: {_describe(outcome, side)}")
        return outcome

    def _copy(self, tid: int, descriptor: int) -> int | None:
        pidfd = self._threads.get(tid)
        if pidfd is not None:
            try:
                return copy_descriptor(pidfd, descriptor)
            except ProcessLookupError:  # another thread has that number now
                self._forget(tid)
            except OSError as error:
                if isinstance(error, PermissionError):
                    raise
                return None
        pidfd = open_thread(tid)
        # A pidfd names one thread for good; that it is the caller's is sure only if that still waits now.
        if not self._listener.is_waiting():
            os.close(pidfd)
            return None
        if len(self._threads) >= self._most_threads:
            self._forget(next(iter(self._threads)))
        self._threads[tid] = pidfd
        try:
            return copy_descriptor(pidfd, descriptor)
        except (PermissionError, ProcessLookupError):
            raise
        except OSError:
            return None

    def _take_as_usual(self, tid: int, port: int, until: float, means: Means, sides: tuple[float, int, int]) -> None:
        usual = self._usual
        if usual.until != until or max(len(usual.at_home), len(usual.sides)) >= _MOST:
            usual.forget()
            usual.until = until
        if self._tell is None and (means is Means.STEER or means is Means.NOTHING):
            usual.at_home[tid] = self._threads[tid]
            usual.sides[port] = sides if means is Means.STEER else None

    def _forget(self, tid: int) -> None:
        self._usual.forget()
        os.close(self._threads.pop(tid))

    def _hold(self, tid: int, port: int) -> Outcome:
        self._holds.keep(port)
        if self._tell is not None:
            self._tell(f"{_who(tid)} connects to {self._destination()}: port {port} is held meanwhile")
        return Outcome.HELD

    def _unseen(self, tid: int, destination: str = "") -> Outcome:
        if self._tell is not None and self._listener.is_waiting():
            to = f" to {destination}" if destination else ""
            self._tell(f"{_who(tid)} connects{to}: it cannot be looked into, not guarded")
        return Outcome.UNSEEN

    def _destination(self) -> str:
        """Return where the call in hand goes, for people."""
        room = self._memory.room
        family, high, low = _HEAD.unpack_from(room)
        if family == _AF_INET6:
            return f"[{socket.inet_ntop(family, room[8:24])}]:{high << 8 | low}"
        return f"{socket.inet_ntop(family, room[4:8])}:{high << 8 | low}"


def _bind_again(sock: Any, name: tuple[Any, ...]) -> Outcome:
    """Have a client that binds first bound once more, within the range it has now."""
    try:
        sock.bind((name[0], 0, *name[2:]))
    except OSError as error:
        if error.errno == errno.EINVAL:  # bound still: the program itself named the port
            return Outcome.LEFT
    return Outcome.RELEASED


def _describe(outcome: Outcome, side: int) -> str:
    if outcome is Outcome.LEFT:
        return "it has bound the socket to that port itself, so it is left alone"
    ports = PortRange(side & 0xFFFF, side >> 16 & 0xFFFF)
    return f"source port from {ports.low if len(ports) == 1 else ports}"


def _who(tid: int) -> str:
    try:
        with open(f"/proc/{tid}/comm", "rb") as file:  # noqa: PTH123 - as light as it can be
            return f"{file.read().decode(errors='replace').strip()} ({tid})"
    except OSError:
        return f"thread {tid}"
