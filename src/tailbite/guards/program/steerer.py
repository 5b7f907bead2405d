"""The slow path: inspect one connect call and prevent a self-connect while the caller is suspended.

The call itself then runs in the program as if there were no supervisor: this module changes the program's socket
through a copy of its descriptor. The copy must be closed before the call continues, or the program's own close()
would not be the last one and no FIN would be sent.

==========================================  ===================================================================
the system, and the socket                  action
==========================================  ===================================================================
the port is outside the ephemeral range     none
descriptors and port ranges (STEER)         IP_LOCAL_PORT_RANGE on a sub-range without P; a socket that the kernel
                                            bound to P is unbound first and bound to another port afterwards
descriptors only (HOLD, before Linux 6.3)   P is held while the call runs; a socket that the kernel bound to P is
                                            unbound and bound to another port instead
neither (HOLD, Docker's default profile)    P is held while the call runs
==========================================  ===================================================================

P is held only if the kernel can choose it within the next connects (:mod:`tailbite.guards.program.lookahead`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import struct
from random import random
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from tailbite.core.plan import Means
from tailbite.core.ports import PortRange
from tailbite.guards.program.bind_again import bind_again, bind_to_another_port
from tailbite.guards.program.fast_path import HEAD_LENGTH, FastPath, open_memory
from tailbite.guards.program.lookahead import LocalDestination
from tailbite.guards.program.mechanism import FEWEST_FILES
from tailbite.guards.program.namespaces import Namespaces, hold_inside
from tailbite.guards.program.port_hold import Holds
from tailbite.guards.program.shared_page import Outcome
from tailbite.kernel import seccomp
from tailbite.kernel.memory import MemoryReader
from tailbite.kernel.pidfd import copy_descriptor, copy_descriptor_of_thread, open_thread
from tailbite.kernel.sockopt import IP_LOCAL_PORT_RANGE, port_range_option
from tailbite.kernel.unbind import unbind_chosen_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.guards.program.namespaces import Ranges
    from tailbite.guards.program.shared_page import WorkerSlot

__all__ = ["GUARDED", "IS_GUARDED", "Steerer"]

# Plain numbers: comparing enum members would cost more than the rest of the inspection.
_AF_INET, _AF_INET6, _IPPROTO_IP = int(socket.AF_INET), int(socket.AF_INET6), int(socket.IPPROTO_IP)
_HEAD = struct.Struct("=HBB")  # family, and the port in network byte order
_ADDRESS_LENGTH = 28  # sizeof(struct sockaddr_in6)
_MOST = 256
_FILES_PER_THREAD = 3  # its pidfd, its memory, and one to spare
_NO_COPY = -1

IS_GUARDED: Final = struct.pack("=HH4s8s", socket.AF_INET, 0, b"tail", b"bite run")
"""The address that ``tailbite run`` connects to, with descriptor -1, to ask whether another one guards it."""

GUARDED: Final = errno.EUCLEAN
"""The answer to that; without a supervisor the kernel says EBADF."""


class Steerer:
    """The inspection of calls, one after the other.

    Sockets of other protocols than TCP are steered as well: to ask what a socket is would cost as much as to steer
    it, and a connected UDP socket that is given its peer's port receives what it sends.

    Args:
        abi: the system call numbers of this machine.
        listener: the listener that calls come from.
        slot: the counts of the worker; :meth:`inspect_call` leaves the counting of its outcome to the caller.
        copies: descriptors can be copied.
        steers: sockets can have a port range.
        report: called with a sentence for each call that needed an action, before the call runs; None for silence.
        ask: called when calls queue up, to ask for another worker.

    Attributes:
        serve_fast_path: handles calls; returns True when a call needs :meth:`inspect_call`, False when a wait ended
            without a call.
        release_ports: releases the ports of calls that are over; returns the seconds until this is due again, or
            None.
        hold_always: holds ports from now on even if they are out of reach, also those of calls under way.
    """

    def __init__(
        self,
        abi: seccomp.Abi,
        listener: seccomp.Listener,
        slot: WorkerSlot,
        *,
        copies: bool = True,
        steers: bool = True,
        report: Callable[[str], None] | None = None,
        ask: Callable[[], None] = lambda: None,
    ) -> None:
        self.report = report
        self._abi = abi
        self._listener = listener
        self._slot = slot
        self._copies = copies
        self._steers = steers
        self._memory = MemoryReader(_ADDRESS_LENGTH)
        self._threads: dict[int, int] = {}
        self._memories: dict[int, int] = {}
        self._newcomer = self._address = 0
        # The program's limit of descriptors is ours as well, and may be a small one.
        few = max(1, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - FEWEST_FILES) // _FILES_PER_THREAD)
        self._most_threads = min(_MOST, few)
        self._holds = Holds(abi.connecting, slot)
        self._namespaces = Namespaces(few // 5)  # threads need more
        self._has_one_namespace = True
        self._fast_path = FastPath(listener, slot, abi.connect, self._namespaces.home_cookie, ask)
        self.serve_fast_path = self._fast_path.serve
        self.release_ports = self._holds.release_over
        self.hold_always = self._holds.hold_always

    @property
    def has_pending_calls(self) -> bool:
        """True while ports are held, or may have to be, for calls that are not known to be over."""
        return self._holds.has_pending_calls

    def inspect_call(self) -> Outcome | None:
        """Inspect the current call before it is answered, and prevent that it connects its socket to itself.

        Never raises for anything that the caller did.

        Returns:
            The outcome; None if the call cannot connect.
        """
        number = seccomp.call_number(self._listener.call)
        if number == self._abi.setsockopt:
            self._holds.hold_always()
            return None
        if number not in self._abi.connecting:
            # The thread moves to another network namespace or descriptor table. All workers must know before it does.
            self._slot.moves[0] += 1
            return None
        if self._fast_path.moves != self._slot.moves[0]:
            self._forget_all()
        tid, descriptor, address, length = seccomp.parse_call(self._listener.call, self._abi)
        if not tid:
            return Outcome.UNSEEN  # in a pid namespace that cannot be seen from here
        try:
            if number in (self._abi.sendmsg, self._abi.sendmmsg):
                address, length = self._read_message(tid, address)
            if length < seccomp.SHORTEST_ADDRESS:
                return Outcome.PASSED  # no Internet address
            self._address = address
            self._memory.read(tid, address, length)
        except OSError:
            return self._unseen(tid)
        family, high, low = _HEAD.unpack_from(self._memory.buffer)
        port = high << 8 | low
        if not port or (family != _AF_INET and family != _AF_INET6):
            if not port and self._memory.buffer[: len(IS_GUARDED)] == IS_GUARDED:
                self._listener.fail(GUARDED)
            return Outcome.PASSED
        try:
            return self._prevent_with_room(tid, descriptor, family, port)
        except OSError:
            return self._unseen(tid, self._destination())

    def _read_message(self, tid: int, at: int) -> tuple[int, int]:
        self._memory.read(tid, at, seccomp.MESSAGE_LENGTH)
        return seccomp.parse_message(self._memory.buffer)

    def _prevent_with_room(self, tid: int, descriptor: int, family: int, port: int) -> Outcome:
        try:
            return self._prevent(tid, descriptor, family, port)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
        for known in list(self._threads):  # the cache is worth less than this call
            self._forget(known)
        return self._prevent(tid, descriptor, family, port)

    def _prevent(self, tid: int, descriptor: int, family: int, port: int) -> Outcome:
        try:
            copy = self._copy(tid, descriptor) if self._copies else _NO_COPY
        except OSError as error:
            if error.errno == errno.EBADF:
                return Outcome.PASSED  # the call will say so, or nobody waits for it
            if error.errno != errno.ENOTSUP:
                raise
            copy = _NO_COPY
        if copy == _NO_COPY:
            foreign = self._namespaces.foreign_name(tid)
            is_at_risk = _is_in(self._ranges_of(foreign, tid), port)
            return self._hold(tid, port, foreign) if is_at_risk else Outcome.PASSED
        sock = None
        try:
            # The type below socket.socket, all three properties given: so Python neither wraps nor asks.
            sock = socket.SocketType(family, socket.SOCK_STREAM, 0, fileno=copy)
            return self._prevent_with_copy(tid, sock, port)
        finally:
            os.close(copy) if sock is None else sock.close()

    def _prevent_with_copy(self, tid: int, sock: Any, port: int) -> Outcome:
        try:
            name = sock.getsockname()
        except OSError:
            return Outcome.PASSED  # not a socket: the call will say so
        if not isinstance(name, tuple):  # a Unix socket
            return Outcome.PASSED
        foreign = self._namespaces.foreign_name(tid, sock)
        ranges = self._ranges_of(foreign, tid, sock)
        own = port_range_option(sock) if self._steers else None
        if own is None:
            if not _is_in(ranges, port):
                return Outcome.PASSED
            return self._hold_or_bind_again(tid, sock, name, port, foreign)
        means, lower_share, lower, upper = ranges.steer(port, own)
        if foreign is None and own == 0:
            self._remember(tid, ranges, means, (port, lower_share, lower, upper))
        if means is Means.STEER:
            try:
                return self._steer(tid, sock, name, port, lower if random() < lower_share else upper)
            except OSError:
                return Outcome.PASSED  # connected or listening already: likewise
        # If the range consists of P alone, EADDRNOTAVAIL is the truth.
        return Outcome.PASSED if means is Means.NOTHING else self._hold(tid, port, foreign, sock)

    def _ranges_of(self, foreign: object, tid: int, sock: Any = None) -> Ranges:
        """Return the ranges of a namespace.

        Raises:
            OSError: the namespace cannot be inspected.
        """
        if foreign is None:
            return self._namespaces.home_ranges(monotonic())
        self._has_one_namespace = False
        self._fast_path.forget()
        ranges = self._namespaces.foreign_ranges(foreign, tid, sock)
        if ranges is None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return ranges

    def _steer(self, tid: int, sock: Any, name: tuple[Any, ...], port: int, sub_range: int) -> Outcome:
        outcome = Outcome.STEERED
        if name[1] == port:
            # The kernel chose the port for a bind to port 0, or the program named it, or it is the memory of a failed
            # connect, which getsockname(2) shows until the next one.
            unbind_chosen_port(sock)
        sock.setsockopt(_IPPROTO_IP, IP_LOCAL_PORT_RANGE, sub_range)
        if name[1] == port:
            outcome = bind_again(sock, name)
        self._report_action(tid, _describe(outcome, sub_range))
        return outcome

    def _hold_or_bind_again(self, tid: int, sock: Any, name: tuple[Any, ...], port: int, foreign: object) -> Outcome:
        if name[1] == port:
            outcome = bind_to_another_port(sock, name, port)
            if outcome is not None:
                self._report_action(tid, _describe(outcome, 0))
                return outcome
        return self._hold(tid, port, foreign, sock)

    def _copy(self, tid: int, descriptor: int) -> int:
        """Return a copy of the caller's descriptor.

        Raises:
            OSError: the caller cannot be inspected; EBADF, it has no such descriptor, or no longer waits; ENOTSUP, it
                has other descriptors than its process.
        """
        pidfd = self._threads.get(tid)
        self._newcomer = 0
        if pidfd is not None:
            try:
                return copy_descriptor(pidfd, descriptor)
            except ProcessLookupError:  # another thread has that number now
                self._forget(tid)
        try:
            pidfd = open_thread(tid)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            self._newcomer = tid  # not for the fast path, which would not compare the copies
            copy = copy_descriptor_of_thread(tid, descriptor)
            if not self._listener.is_waiting():
                os.close(copy)
                raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None
            return copy
        # A pidfd names one thread forever; it is certain to be the caller's only if the caller still waits now.
        if not self._listener.is_waiting():
            os.close(pidfd)
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if len(self._threads) >= self._most_threads:
            self._forget(next(iter(self._threads)))
        self._threads[tid] = pidfd
        self._newcomer = tid
        return copy_descriptor(pidfd, descriptor)

    def _remember(self, tid: int, ranges: Ranges, means: Means, sub_ranges: tuple[int, float, int, int]) -> None:
        """Leave the next calls of this thread to this port to the fast path."""
        self._fast_path.refresh(ranges, ranges.until)
        # The fast path does not look at a socket if nothing is needed, so there must be one namespace only.
        is_usual = means is Means.STEER or (means is Means.NOTHING and self._has_one_namespace)
        if self.report is not None or not is_usual or tid == self._newcomer:
            return  # a thread that connects only once is not worth a descriptor
        head = bytes(self._memory.buffer[:HEAD_LENGTH])
        with contextlib.suppress(OSError):
            memory = self._memory_of(tid, head)
            self._fast_path.learn(tid, self._threads[tid], memory, head, sub_ranges if means is Means.STEER else None)

    def _memory_of(self, tid: int, head: bytes) -> int:
        """Return a descriptor of the memory that the current call's address is in.

        Raises:
            OSError: that memory cannot be opened.
        """
        memory = self._memories.get(tid)
        if memory is not None:
            with contextlib.suppress(OSError, OverflowError):
                if os.pread(memory, HEAD_LENGTH, self._address) == head:
                    return memory
            os.close(self._memories.pop(tid))  # the thread has executed another program
        memory = self._memories[tid] = open_memory(tid)
        return memory

    def _forget_all(self) -> None:
        """Forget what a thread that moved made untrue: its descriptors, and that there is one namespace."""
        self._fast_path.moves = self._slot.moves[0]
        self._has_one_namespace = False
        self._fast_path.forget()
        for tid in list(self._threads):
            self._forget(tid)

    def _forget(self, tid: int) -> None:
        self._fast_path.forget_thread(tid)
        os.close(self._threads.pop(tid))
        if (memory := self._memories.pop(tid, None)) is not None:
            os.close(memory)

    def _hold(self, tid: int, port: int, foreign: object, sock: Any = None) -> Outcome:
        """Keep the kernel from choosing the port while the call runs.

        Raises:
            OSError: the port cannot be held there.
        """
        is_held = True
        if foreign is None:
            # Where sockets are steered, they may have port ranges of their own, and a sequence in each.
            looks_ahead = not (self._copies and self._steers)
            destination = LocalDestination.parse(bytes(self._memory.buffer)) if looks_ahead else None
            is_held = self._holds.hold_during_call(tid, port, destination=destination)
        else:
            self._holds.hold_during_call(tid, port, foreign, lambda port: hold_inside(port, tid, sock))
        self._report_action(tid, f"port {port} is held" if is_held else f"port {port} is out of reach")
        return Outcome.HELD if is_held else Outcome.OUT_OF_REACH

    def _report_action(self, tid: int, action: str) -> None:
        if self.report is not None:
            self.report(f"{_name_of(tid)} connects to {self._destination()}: {action}")

    def _unseen(self, tid: int, destination: str = "") -> Outcome:
        if self.report is not None and self._listener.is_waiting():
            to = f" to {destination}" if destination else ""
            self.report(f"{_name_of(tid)} connects{to}: it cannot be inspected, not guarded")
        return Outcome.UNSEEN

    def _destination(self) -> str:
        """Return the destination of the current call, for people."""
        address = bytes(self._memory.buffer)
        family, high, low = _HEAD.unpack_from(address)
        if family == _AF_INET6:
            return f"[{socket.inet_ntop(family, address[8:24])}]:{high << 8 | low}"
        return f"{socket.inet_ntop(family, address[4:8])}:{high << 8 | low}"


def _is_in(ranges: Ranges, port: int) -> bool:
    return ranges.ephemeral is None or port in ranges.ephemeral


def _describe(outcome: Outcome, sub_range: int) -> str:
    if outcome is Outcome.LEFT:
        return "the program has bound the socket to that port itself, so it is left alone"
    if not sub_range:
        return "the kernel had bound it to that port, so it is bound to another one"
    ports = PortRange(sub_range & 0xFFFF, sub_range >> 16 & 0xFFFF)
    return f"source port from {ports.low if len(ports) == 1 else ports}"


def _name_of(tid: int) -> str:
    try:
        with open(f"/proc/{tid}/comm", "rb") as file:  # noqa: PTH123 - as light as it can be
            return f"{file.read().decode(errors='replace').strip()} ({tid})"
    except OSError:
        return f"thread {tid}"
