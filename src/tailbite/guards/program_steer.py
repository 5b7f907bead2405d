"""One connect call of another process: look at where it goes, and see to its source port, while it waits.

The call itself then runs in the program, as if nobody had looked: this module changes the program's socket through
a copy of its descriptor. The copy must be closed before the call goes on, or the program's own close() would not be
the last one and no FIN would be sent.
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
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tailbite.core.plan import HostFacts, Means, Plan, plan
from tailbite.core.ports import PortRange
from tailbite.guards.program_hold import Holds
from tailbite.guards.program_tally import Outcome
from tailbite.kernel import seccomp
from tailbite.kernel.namespace import CLONE_NEWNET, CLONE_NEWUSER, setns
from tailbite.kernel.process import MemoryReader, copy_descriptor, open_thread
from tailbite.kernel.sockopt import local_port_range, netns_cookie, set_local_port_range
from tailbite.kernel.sysctl import read_ephemeral_range
from tailbite.kernel.unbind import give_back_drawn_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.kernel.seccomp import Call

__all__ = ["Destination", "Steerer", "effective_range", "read_destination"]

FRESH_FOR: Final = 0.01
"""Seconds for which a namespace's port range is believed, as in :mod:`tailbite.connect.facts`."""

FOREIGN_FRESH_FOR: Final = 1.0
"""The same for a namespace the program made itself: to read it takes a process of its own."""

HOME_FOR: Final = 0.1
"""Seconds for which a thread is believed to be in our namespace still, so a port outside our range needs no look."""

_LOWEST_PORT = 1024
_TCP = (6, 262)  # IPPROTO_TCP; IPPROTO_MPTCP, Linux 5.6
# Plain numbers: an enum's equality would cost more than the rest of the look.
_AF_INET, _AF_INET6 = int(socket.AF_INET), int(socket.AF_INET6)
_SOL_SOCKET, _SO_PROTOCOL = int(socket.SOL_SOCKET), int(socket.SO_PROTOCOL)
_HEAD = struct.Struct("=HBB")  # family, and the port in network byte order
_ADDRESS_LENGTH = 28  # sizeof(struct sockaddr_in6)
_MOST = 256
_UNSET = 0, 0


class Destination(NamedTuple):
    """Where a call goes: what its ``struct sockaddr_in`` or ``sockaddr_in6`` says."""

    family: int
    host: bytes
    port: int

    def __str__(self) -> str:
        host = socket.inet_ntop(self.family, self.host)
        return f"[{host}]:{self.port}" if self.family == socket.AF_INET6 else f"{host}:{self.port}"


def read_destination(sockaddr: bytes) -> Destination | None:
    """Read a sockaddr; None if it is neither IPv4 nor IPv6, or cut short."""
    if len(sockaddr) < seccomp.SHORTEST_ADDRESS:
        return None
    family, high, low = _HEAD.unpack_from(sockaddr)
    if family == _AF_INET:
        return Destination(family, sockaddr[4:8], high << 8 | low)
    if family == _AF_INET6 and len(sockaddr) >= 24:
        return Destination(family, sockaddr[8:24], high << 8 | low)
    return None


def effective_range(ephemeral: PortRange, own: tuple[int, int]) -> PortRange | None:
    """Return what the kernel makes of a socket's own range: a bound outside the ephemeral range does not count.

    None if the two bounds cross (inet_sk_get_local_port_range).
    """
    low = own[0] if own[0] in ephemeral else ephemeral.low
    high = own[1] if own[1] in ephemeral else ephemeral.high
    return PortRange(low, high) if low <= high else None


class _Namespace:
    """A network namespace's ephemeral range, and the plans made from it, per destination port."""

    __slots__ = ("ephemeral", "plans", "until")

    def __init__(self, ephemeral: PortRange | None, until: float) -> None:
        self.ephemeral = ephemeral
        self.until = until
        self.plans: dict[int, Plan] = {}

    def plan(self, port: int) -> Plan:
        found = self.plans.get(port)
        if found is None:
            if len(self.plans) >= _MOST:
                self.plans.clear()
            found = self.plans[port] = plan(port, 0, HostFacts(self.ephemeral, True))
        return found


class Steerer:
    """Sees to calls, one after the other.

    Args:
        abi: this machine's.
        listener: what the calls come from.
        copies: descriptors can be copied and sockets steered; otherwise ports are held.
        tell: called with a sentence for each call that something was done about, before it runs; None is silence.
    """

    def __init__(
        self, abi: seccomp.Abi, listener: int, *, copies: bool = True, tell: Callable[[str], None] | None = None
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
        self._given: dict[tuple[int, int], tuple[int, int]] = {}
        self._foreign: dict[bytes, _Namespace] = {}
        self._at_home: dict[int, float] = {}
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            self._home = _cookie(sock)
        self._own = _Namespace(None, 0.0)
        self._now = 0.0

    def tick(self) -> float | None:
        """Let go of what was held long enough; return the seconds until this is due again."""
        return self._holds.expire()

    def handle(self, notification: bytes | memoryview) -> Outcome:
        """See to the call before it is answered. Never raises for anything the caller did."""
        call = seccomp.parse_call(notification, self._abi)
        if not call.tid:
            return Outcome.UNSEEN  # in a pid namespace that is none of ours
        try:
            sockaddr = self._memory.read(call.tid, call.address, min(call.length, _ADDRESS_LENGTH))
        except OSError:
            return self._unseen(call)
        to = read_destination(sockaddr)
        if to is None or not to.port:
            return Outcome.PASSED
        own = self._own_namespace()
        is_in_range = own.ephemeral is None or to.port in own.ephemeral
        if not self._copies:
            return self._hold(call, to) if is_in_range else Outcome.PASSED
        if not is_in_range and to.port < _LOWEST_PORT:
            return Outcome.PASSED
        is_at_home = self._at_home.get(call.tid, 0.0) > self._now
        if is_at_home and not is_in_range:
            return Outcome.PASSED
        try:
            copy = self._copy(call)
        except OSError:
            return self._unseen(call, to)
        if copy is None:
            return Outcome.PASSED  # no such descriptor: the call will say so
        sock = None
        try:
            # The type below socket.socket, all three properties given: so Python neither wraps nor asks.
            sock = socket.SocketType(to.family, socket.SOCK_STREAM, 0, fileno=copy)
            return self._steer(call, to, sock, own if is_at_home else self._namespace_of(call, sock))
        except OSError:
            return Outcome.PASSED  # no socket: the call will say so
        finally:
            os.close(copy) if sock is None else sock.close()

    def _copy(self, call: Call) -> int | None:
        pidfd = self._threads.get(call.tid)
        if pidfd is not None:
            try:
                return copy_descriptor(pidfd, call.descriptor)
            except ProcessLookupError:  # another thread has that number now
                os.close(self._threads.pop(call.tid))
            except OSError as error:
                if isinstance(error, PermissionError):
                    raise
                return None
        pidfd = open_thread(call.tid)
        # A pidfd names one thread for good; that it is the caller's is sure only if that still waits now.
        if not seccomp.is_waiting(self._listener, call.id):
            os.close(pidfd)
            return None
        if len(self._threads) >= self._most_threads:
            os.close(self._threads.pop(next(iter(self._threads))))
        self._threads[call.tid] = pidfd
        try:
            return copy_descriptor(pidfd, call.descriptor)
        except (PermissionError, ProcessLookupError):
            raise
        except OSError:
            return None

    def _steer(self, call: Call, to: Destination, sock: Any, namespace: _Namespace | None) -> Outcome:
        if sock.getsockopt(_SOL_SOCKET, _SO_PROTOCOL) not in _TCP:
            return Outcome.PASSED
        if namespace is None:
            return self._unseen(call, to)
        chosen, theirs = self._respect_own_range(sock, namespace, to.port)
        if chosen.means is Means.NOTHING:
            return Outcome.PASSED
        if chosen.means is not Means.STEER:
            return self._hold(call, to)  # P is all there is: then EADDRNOTAVAIL is the truth
        side = chosen.order(random())[0]
        name = sock.getsockname()
        outcome = Outcome.STEERED
        if name[1] == to.port:
            # The kernel drew it for a bind to port 0, or the program named it, or it is the memory of a failed
            # connect, which getsockname(2) shows until the next one.
            give_back_drawn_port(sock)
        set_local_port_range(sock, side)
        self._remember(side, theirs)
        if name[1] == to.port:
            outcome = _bind_again(sock, name)
        if self._tell is not None:
            self._tell(f"{_who(call.tid)} connects to {to}: {_describe(outcome, side)}")
        return outcome

    def _namespace_of(self, call: Call, sock: Any) -> _Namespace | None:
        """Return what is known of the socket's namespace, None if it is another one that cannot be looked into."""
        cookie = _cookie(sock)
        if cookie != self._home:
            found = self._foreign_namespace(cookie, call.tid)
            return None if found.ephemeral is None else found
        if len(self._at_home) >= _MOST:
            self._at_home.clear()
        self._at_home[call.tid] = self._now + HOME_FOR
        return self._own

    def _respect_own_range(self, sock: Any, namespace: _Namespace, port: int) -> tuple[Plan, tuple[int, int]]:
        """Plan within the range the program itself gave its socket; return that as well, (0, 0) if it gave none.

        A socket that is connected again has the range we gave it. That is known by its bounds, which no program
        would choose: one of them lies next to a port that was connected to.
        """
        theirs = local_port_range(sock)
        if theirs != _UNSET:
            theirs = self._given.get(theirs, theirs)
        if theirs == _UNSET or namespace.ephemeral is None:
            return namespace.plan(port), _UNSET
        ports = effective_range(namespace.ephemeral, theirs)
        return Plan(Means.NOTHING) if ports is None else plan(port, 0, HostFacts(ports, True)), theirs

    def _remember(self, side: PortRange, theirs: tuple[int, int]) -> None:
        if len(self._given) >= _MOST:
            del self._given[next(iter(self._given))]
        self._given[side.low, side.high] = theirs

    def _hold(self, call: Call, to: Destination) -> Outcome:
        self._holds.keep(to.port)
        if self._tell is not None:
            self._tell(f"{_who(call.tid)} connects to {to}: port {to.port} is held meanwhile")
        return Outcome.HELD

    def _unseen(self, call: Call, to: Destination | None = None) -> Outcome:
        if self._tell is not None and seccomp.is_waiting(self._listener, call.id):
            self._tell(f"{_who(call.tid)} connects{f' to {to}' if to else ''}: it cannot be looked into, not guarded")
        return Outcome.UNSEEN

    def _own_namespace(self) -> _Namespace:
        now = self._now = monotonic()
        if self._own.until < now:
            try:
                ephemeral: PortRange | None = read_ephemeral_range()
            except (OSError, ValueError):
                ephemeral = None
            if ephemeral == self._own.ephemeral:
                self._own.until = now + FRESH_FOR
            else:
                self._own = _Namespace(ephemeral, now + FRESH_FOR)
        return self._own

    def _foreign_namespace(self, cookie: bytes, tid: int) -> _Namespace:
        now = self._now
        known = self._foreign.get(cookie)
        if known is None or known.until < now:
            if len(self._foreign) >= _MOST:
                self._foreign.clear()
            known = self._foreign[cookie] = _Namespace(_read_range_of(tid), now + FOREIGN_FRESH_FOR)
        return known


def _cookie(sock: Any) -> bytes:
    try:
        return netns_cookie(sock)
    except OSError:
        return b""  # before Linux 5.14 all namespaces look like ours


def _read_range_of(tid: int) -> PortRange | None:
    """Read the ephemeral range of another thread's namespace, from a child process that goes there.

    A namespace that an unprivileged program made belongs to a user namespace it made as well; whoever has the same
    user outside may enter that one first, and is then privileged enough for the other (user_namespaces(7)).
    None if that is not allowed here.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            network = os.open(f"/proc/{tid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # EINVAL: the same user namespace as ours
                setns(os.open(f"/proc/{tid}/ns/user", os.O_RDONLY | os.O_CLOEXEC), CLONE_NEWUSER)
            setns(network, CLONE_NEWNET)
            os.write(write, str(read_ephemeral_range()).encode())
        finally:
            os._exit(0)
    os.close(write)
    try:
        text = os.read(read, 64)
    finally:
        os.close(read)
        os.waitpid(child, 0)
    try:
        return PortRange.parse(text.decode("ascii"))
    except ValueError:
        return None


def _bind_again(sock: Any, name: tuple[Any, ...]) -> Outcome:
    """Have a client that binds first bound once more, within the range it has now."""
    try:
        sock.bind((name[0], 0, *name[2:]))
    except OSError as error:
        if error.errno == errno.EINVAL:  # bound still: the program itself named the port
            return Outcome.LEFT
    return Outcome.RELEASED


def _describe(outcome: Outcome, side: PortRange) -> str:
    if outcome is Outcome.LEFT:
        return "it has bound the socket to that port itself, so it is left alone"
    return f"source port from {side.low if side.low == side.high else side}"


def _who(tid: int) -> str:
    try:
        with open(f"/proc/{tid}/comm", "rb") as file:  # noqa: PTH123 - as light as it can be
            return f"{file.read().decode(errors='replace').strip()} ({tid})"
    except OSError:
        return f"thread {tid}"
