"""One network namespace at one moment: its sockets that matter, and the settings that decide about source ports.

Everything is a frozen record. What could not be looked at (no permission, gone meanwhile, a file this kernel does
not have) is a :class:`Blind` in ``blind``, never silence: an empty ``listeners`` with a :class:`Blind` beside it
says something else than an empty one alone.
"""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from tailbite.host.visit import visit
from tailbite.kernel.sock_diag import SockDiag, TcpState
from tailbite.kernel.sysctl import read_ephemeral_range, read_reserved_ports, read_sysctl

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from tailbite.core.ports import PortRange, PortSet
    from tailbite.kernel.sock_diag import Listing, TcpSocket

    T = TypeVar("T")

__all__ = [
    "SYSCTLS",
    "Blind",
    "Look",
    "Namespace",
    "NamespaceKind",
    "Process",
    "Snapshot",
    "Sysctl",
    "take",
]

SYSCTLS = (
    "ip_unprivileged_port_start",
    "ip_local_port_step_width",
    "tcp_fin_timeout",
    "tcp_simult_connect",
    "tcp_tw_reuse",
    "tcp_tw_reuse_delay",
)
"""Names below /proc/sys/net/ipv4 that bear on self-connects; most kernels lack some of them."""


@dataclass(frozen=True, slots=True)
class Blind:
    """Something that could not be looked at.

    Attributes:
        what: what is not known because of it, in words.
        why: the reason, and where there is one the way to see it all the same.
        number: the errno, 0 if it is no system error.
    """

    what: str
    why: str
    number: int = 0

    @classmethod
    def of(cls, what: str, error: OSError) -> Blind:
        """Take the reason from an error."""
        number = error.errno or 0
        if number in (errno.EPERM, errno.EACCES):
            return cls(what, "not permitted: run as root to see it", number)
        if number in (errno.ENOENT, errno.ESRCH):
            return cls(what, "it vanished while we looked, or this kernel does not have it", number)
        return cls(what, error.strerror or str(error), number)

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(frozen=True, slots=True)
class Process:
    """A process that holds a socket.

    Attributes:
        pid: as this process sees it.
        name: the short name the kernel keeps (/proc/PID/comm).
        command: the command line, one string; empty if it cannot be read.
        user: the user's name, or number where it has none.
        started: seconds since the epoch; None if unknown.
    """

    pid: int
    name: str
    command: str = ""
    user: str = ""
    started: float | None = None

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


class NamespaceKind(Enum):
    """By what a network namespace is known."""

    OWN = "own"
    CONTAINER = "container"
    NAMED = "named"
    PROCESS = "process"

    @property
    def label(self) -> str:
        """The word in JSON."""
        return self.value


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace of this host.

    Attributes:
        inode: its number, as in ``net:[4026531840]``.
        kind: by what it is known.
        name: "this namespace", a container's short id, a name of ``ip netns``, or a process's name.
        path: what to open to enter it; empty for the caller's own.
        pids: some processes in it, the lowest pid first.
    """

    inode: int
    kind: NamespaceKind
    name: str
    path: str = ""
    pids: tuple[int, ...] = ()

    @property
    def is_own(self) -> bool:
        """True for the namespace of the caller."""
        return self.kind is NamespaceKind.OWN

    def __str__(self) -> str:
        if self.is_own:
            return "this namespace"
        return f"{'namespace' if self.kind is NamespaceKind.NAMED else self.kind.value} {self.name}"


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A setting below /proc/sys/net/ipv4; ``value`` is None where this kernel does not have it."""

    name: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One network namespace at one moment.

    Attributes:
        namespace: which one.
        taken: when, in seconds since the epoch.
        ephemeral: ``ip_local_port_range``; None if it could not be read.
        reserved: ``ip_local_reserved_ports``; None if it could not be read.
        sysctls: those of :data:`SYSCTLS`.
        self_connects: every self-connected socket, TIME-WAIT included.
        listeners: every listening socket.
        bound: sockets that are bound, neither listening nor connected (visible since Linux 6.8).
        blind: what could not be looked at.
    """

    namespace: Namespace
    taken: float
    ephemeral: PortRange | None
    reserved: PortSet | None
    sysctls: tuple[Sysctl, ...]
    self_connects: tuple[TcpSocket, ...]
    listeners: tuple[TcpSocket, ...]
    bound: tuple[TcpSocket, ...]
    blind: tuple[Blind, ...] = ()

    @property
    def held(self) -> tuple[TcpSocket, ...]:
        """The self-connected sockets that are not in TIME-WAIT: a program has them open, or the close still runs."""
        return tuple(found for found in self.self_connects if found.state is not TcpState.TIME_WAIT)

    @property
    def time_waits(self) -> tuple[TcpSocket, ...]:
        """What closed self-connects left: TIME-WAIT from a port to itself."""
        return tuple(found for found in self.self_connects if found.state is TcpState.TIME_WAIT)

    def sysctl(self, name: str) -> str | None:
        """Return one setting's text, or None if this kernel does not have it."""
        return next((item.value for item in self.sysctls if item.name == name), None)


def take(namespace: Namespace) -> Snapshot:
    """Look at one namespace. Never raises for what the kernel refuses: that becomes ``blind``."""
    try:
        return visit(namespace, partial(_take_here, namespace))
    except OSError as error:
        blind = Blind.of(str(namespace), error)
        return Snapshot(namespace, time.time(), None, None, (), (), (), (), (blind,))


def _take_here(namespace: Namespace) -> Snapshot:
    look = Look()
    ephemeral = look.at("the ephemeral port range", read_ephemeral_range)
    return Snapshot(
        namespace=namespace,
        taken=time.time(),
        ephemeral=ephemeral,
        reserved=look.at("the reserved ports", read_reserved_ports),
        sysctls=tuple(Sysctl(name, read_sysctl(name)) for name in SYSCTLS),
        self_connects=look.sockets("the self-connected sockets", lambda diag: diag.self_connects(ephemeral)),
        listeners=look.sockets("the listening sockets", lambda diag: diag.listing((TcpState.LISTEN,))),
        bound=look.sockets("the bound sockets", lambda diag: diag.listing((TcpState.BOUND_INACTIVE,))),
        blind=tuple(look.blind),
    )


class Look:
    """Looks, and writes down what could not be looked at.

    Attributes:
        blind: what could not.
    """

    def __init__(self) -> None:
        self.blind: list[Blind] = []

    def at(self, what: str, read: Callable[[], T]) -> T | None:
        """Return what ``read`` returns, or None."""
        try:
            return read()
        except OSError as error:
            self.blind.append(Blind.of(what, error))
        except ValueError as error:
            self.blind.append(Blind(what, str(error)))
        return None

    def sockets(self, what: str, ask: Callable[[SockDiag], Listing]) -> tuple[TcpSocket, ...]:
        """Return the sockets that ``ask`` lists in the calling thread's namespace."""

        def read() -> Listing:
            with SockDiag() as diag:
                return ask(diag)

        listing = self.at(what, read)
        if listing is None:
            return ()
        if not listing.complete:
            self.blind.append(Blind(what, "they changed faster than they could be listed, so one may be missing"))
        return listing.sockets
