"""The source ports of a guarded program's sockets: its network namespaces, their ranges, its own ranges."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tailbite.connect import facts
from tailbite.core.plan import HostFacts, Means, Plan, plan
from tailbite.core.sub_ranges import effective_range
from tailbite.guards.program.port_hold import hold
from tailbite.kernel.namespace import CLONE_NEWNET, CLONE_NEWUSER, setns
from tailbite.kernel.sockopt import netns_cookie, pack_port_range
from tailbite.kernel.sysctl import open_ephemeral_range, read_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.core.ports import PortRange

__all__ = ["Namespaces", "Ranges", "Steering", "hold_inside"]

_ASKED_AGAIN_AFTER: Final = 1.0
"""Seconds until a namespace that could not be entered is tried again, as that takes a process of its own."""

_MOST = 4096
_MOST_FILES = 64
_SIOCGSKNS = 0x894C  # a descriptor of a socket's network namespace; Linux 4.10, include/uapi/linux/sockios.h


class Steering(NamedTuple):
    """A plan, and for ``Means.STEER`` its two sub-ranges as values of IP_LOCAL_PORT_RANGE."""

    means: Means
    lower_share: float = 1.0
    lower: int = 0
    upper: int = 0


def _steering(chosen: Plan) -> Steering:
    values = [pack_port_range(sub_range.low, sub_range.high) for sub_range in chosen.sub_ranges]
    return Steering(chosen.means, chosen.lower_share, values[0], values[-1]) if values else Steering(chosen.means)


class Ranges:
    """A network namespace's ephemeral range, and the steering that follows from it for a destination port.

    Attributes:
        ephemeral: the range; None if it cannot be read.
        until: monotonic time at which it has to be read again.
        file: a descriptor that the range can be read from, in every namespace; None if it is not open.
    """

    def __init__(self, ephemeral: PortRange | None, until: float) -> None:
        self.ephemeral = ephemeral
        self.until = until
        self.file: int | None = None
        # A socket that is connected again has the range that it was given here, which is not its program's.
        self._given: dict[int, int] = {}

    def steer(self, port: int, own: int) -> Steering:
        """Return the steering of a connect to ``port`` by a socket with the port range ``own``, 0 if it has none."""
        if own == 0 or (own := self._given.get(own, own)) == 0 or self.ephemeral is None:
            return self._remember(_steering(plan(port, 0, HostFacts(self.ephemeral, True))), 0)
        ports = effective_range(self.ephemeral, own)
        return self._remember(_steering(plan(port, 0, HostFacts(ports, True))), own)

    def _remember(self, steering: Steering, own: int) -> Steering:
        if len(self._given) >= _MOST:
            self._given.clear()
        if steering.means is Means.STEER:
            self._given[steering.lower] = self._given[steering.upper] = own
        return steering


class Namespaces:
    """The network namespaces of a program: nearly always only the supervisor's own, and then there is little to do.

    A namespace has a name: the cookie of a socket in it where the kernel has one (SO_NETNS_COOKIE, Linux 5.14) and
    the socket can be inspected, else the link target that the namespace of the socket has (SIOCGSKNS, Linux 4.10, for
    those who are privileged in it), or that of the thread that connects.

    Args:
        most_files: the number of namespaces whose range may stay open as a file. Entering a namespace to read its
            range takes a process of its own; /proc/sys/net shows the namespace of the thread that opened the file,
            also to another thread that reads it (proc_sysctl.c, sysctl_net.c).
    """

    def __init__(self, most_files: int = _MOST_FILES) -> None:
        self._most_files = min(most_files, _MOST_FILES)
        self._home_link = _link_of("self")
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            self.home_cookie = _cookie(sock)
        self._own = Ranges(None, 0.0)
        self._foreign: dict[object, Ranges] = {}

    def home_ranges(self, now: float) -> Ranges:
        """Return the range of the supervisor's own namespace."""
        own = self._own
        if own.until < now:
            try:
                ephemeral: PortRange | None = read_ephemeral_range()
            except (OSError, ValueError):
                ephemeral = None
            if ephemeral != own.ephemeral:
                own = self._own = Ranges(ephemeral, now)
            own.until = now + facts.FRESH_FOR
        return own

    def foreign_name(self, tid: int, sock: Any = None) -> object:
        """Return the name of a namespace that is not the supervisor's own, or None for the supervisor's own.

        Args:
            tid: the thread that connects.
            sock: a copy of its socket, if there is one.

        Raises:
            OSError: the thread cannot be inspected.
        """
        if sock is not None and self.home_cookie:
            name: object = _cookie(sock)
            return None if name == self.home_cookie else name
        link = (_link_of_socket(sock) if sock is not None else "") or _link_of(tid)
        return None if link == self._home_link else link

    def foreign_ranges(self, name: object, tid: int, sock: Any = None) -> Ranges | None:
        """Return the range of the namespace of a thread or its socket; None if it cannot be inspected."""
        now = monotonic()
        known = self._foreign.get(name)
        if known is None or known.until < now:
            known = self._read_foreign(name, known, tid, sock)
            if known.ephemeral is None:
                known.until = now + _ASKED_AGAIN_AFTER
            elif known.file is None:
                known.until = now + facts.FRESH_FOR
        return None if known.ephemeral is None else known

    def _read_foreign(self, name: object, known: Ranges | None, tid: int, sock: Any) -> Ranges:
        file = None if known is None else known.file
        ephemeral = None if file is None else _read_range_from(file)
        if ephemeral is None:  # not open yet, or the file's namespace is gone, and another one has its name now
            self._close_file(known)
            ephemeral, file = _read_range_of(tid, sock)
            file = self._keep_file(file)
        if known is None or known.ephemeral != ephemeral:
            known = Ranges(ephemeral, 0.0)
        self._foreign[name] = known
        known.file = file
        return known

    def _keep_file(self, file: int | None) -> int | None:
        """Close what is too many, so that one more file can stay open; return it, or None if it may not."""
        if len(self._foreign) >= _MOST:
            self._forget_all()
        if file is None:
            return None
        if not self._most_files:
            os.close(file)
            return None
        with_file = [ranges for ranges in self._foreign.values() if ranges.file is not None]
        if len(with_file) >= self._most_files:
            self._close_file(with_file[0])
        return file

    def _forget_all(self) -> None:
        for ranges in self._foreign.values():
            self._close_file(ranges)
        self._foreign.clear()

    @staticmethod
    def _close_file(ranges: Ranges | None) -> None:
        if ranges is not None and ranges.file is not None:
            os.close(ranges.file)
            ranges.file = None


def _cookie(sock: Any) -> bytes:
    try:
        return netns_cookie(sock)
    except OSError:
        return b""


def _link_of(tid: object) -> str:
    return os.readlink(f"/proc/{tid}/ns/net")  # noqa: PTH115 - pathlib takes 4 ms to load


def _link_of_socket(sock: Any) -> str:
    """Return what :func:`_link_of` returns for a thread in the socket's namespace; "" where that is not permitted."""
    try:
        network = fcntl.ioctl(sock, _SIOCGSKNS)
    except OSError:
        return ""
    try:
        return os.readlink(f"/proc/self/fd/{network}")  # noqa: PTH115
    finally:
        os.close(network)


def hold_inside(port: int, tid: int, sock: Any = None) -> socket.socket:
    """Hold a port as :func:`~tailbite.guards.program.port_hold.hold` does, in the namespace of a thread or socket.

    Raises:
        OSError: EADDRINUSE, a server has the port; EPERM, that namespace cannot be entered.
    """

    def work(end: socket.socket) -> None:
        try:
            with hold(port) as holder:
                socket.send_fds(end, [b"+"], [holder.fileno()])
        except OSError as error:
            end.send(str(error.errno).encode())

    answer, descriptors = _ask_inside(tid, sock, work)
    if descriptors:
        return socket.socket(fileno=descriptors[0])
    number = int(answer) if answer.isdigit() else errno.EPERM
    raise OSError(number, os.strerror(number))


def _read_range_of(tid: int, sock: Any) -> tuple[PortRange | None, int | None]:
    """Return the range of a thread's or a socket's namespace, and a descriptor of the file to read it from again."""

    def work(end: socket.socket) -> None:
        socket.send_fds(end, [b"+"], [open_ephemeral_range()])

    _, descriptors = _ask_inside(tid, sock, work)
    if not descriptors:
        return None, None
    return _read_range_from(descriptors[0]), descriptors[0]


def _read_range_from(file: int) -> PortRange | None:
    try:
        return read_ephemeral_range(file)
    except (OSError, ValueError):  # ENOENT: no process and no socket is left in that namespace
        return None


def _ask_inside(tid: int, sock: Any, work: Callable[[socket.socket], None]) -> tuple[bytes, list[int]]:
    """Have a child process enter the network namespace of a socket, or of a thread, and answer from there.

    Returns:
        The answer and its descriptors; nothing if the namespace cannot be entered.
    """
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            if _enter(tid, sock):
                work(theirs)
        finally:
            os._exit(0)
    theirs.close()
    try:
        answer, descriptors, _, _ = socket.recv_fds(ours, 64, 1)
        return answer, descriptors
    finally:
        ours.close()
        with contextlib.suppress(ChildProcessError):  # a signal handler has waited for it
            os.waitpid(child, 0)


def _enter(tid: int, sock: Any) -> bool:
    """Enter the network namespace of a socket, or of a thread; False if that is another one than the socket's.

    A namespace that an unprivileged program made belongs to a user namespace it made as well; a process of the same
    user outside may enter that one first, and is then privileged enough for the other (user_namespaces(7)).
    """
    network = os.open(f"/proc/{tid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # EINVAL: the same user namespace as ours
        setns(os.open(f"/proc/{tid}/ns/user", os.O_RDONLY | os.O_CLOEXEC), CLONE_NEWUSER)
    if sock is not None:
        with contextlib.suppress(OSError):  # EPERM: without CAP_NET_ADMIN there
            network = fcntl.ioctl(sock, _SIOCGSKNS)
    setns(network, CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as inside:
        return sock is None or _cookie(inside) == _cookie(sock)
