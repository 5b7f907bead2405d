"""Records that every inspection of a host shares: namespaces, processes, and what was not visible.

Anything that could not be inspected (no permission, a file that this kernel does not have) is a :class:`NotVisible`
record, never silence: an empty list with such a record beside it means something else than an empty list alone.
"""

from __future__ import annotations

import errno
import os
import shlex
from dataclasses import dataclass
from enum import Enum

from tailbite.kernel.capabilities import (
    CAP_NET_ADMIN,
    CAP_SYS_ADMIN,
    CAP_SYS_PTRACE,
    has_capability,
    is_in_user_namespace,
)

__all__ = ["Container", "Namespace", "NamespaceKind", "NotVisible", "Process", "Supervisor", "not_permitted"]

_USED = {"CAP_SYS_PTRACE": CAP_SYS_PTRACE, "CAP_SYS_ADMIN": CAP_SYS_ADMIN, "CAP_NET_ADMIN": CAP_NET_ADMIN}
"""For /proc/PID/ns and /proc/PID/fd of other users (ptrace(2)), to enter a namespace, for SOCK_DESTROY."""
_GONE = frozenset({errno.ENOENT, errno.ESRCH})


def not_permitted(action: str = "see it") -> str:
    """Return why something is closed to this user, and what would open it.

    Args:
        action: what was not permitted, as a verb with its object: "see it", "destroy it".
    """
    if os.geteuid() != 0:
        return f"not permitted: run as root to {action}"
    missing = [name for name, number in _USED.items() if not has_capability(number)]
    if missing:
        return f"permission denied even as root: this process lacks {' and '.join(missing)}"
    if is_in_user_namespace():
        return (
            "permission denied: root of a user namespace (a rootless container) "
            f"may not {action}, root of the host may"
        )
    return (
        "permission denied even as root, with every capability that is used for it: "
        f"a security module, or the sandbox of this system, does not allow this process to {action}"
    )


@dataclass(frozen=True, slots=True)
class NotVisible:
    """Something that could not be inspected.

    Attributes:
        what: the part that is not known because of it, in words.
        why: the reason, and where there is one the way to see it all the same.
        number: the errno, EACCES for what only root can see; 0 if it is not a system error.
    """

    what: str
    why: str
    number: int = 0

    @classmethod
    def of(cls, what: str, error: OSError, action: str = "see it") -> NotVisible:
        """Make the record from an error; ``action`` is what was tried, as for :func:`not_permitted`."""
        number = error.errno or 0
        if number in (errno.EPERM, errno.EACCES):
            return cls(what, not_permitted(action), number)
        if number in _GONE:
            return cls(what, "it vanished during the inspection, or this kernel does not have it", number)
        return cls(what, error.strerror or str(error), number)

    @property
    def is_gone(self) -> bool:
        """True for something that ended meanwhile: nothing is left of it that could be seen."""
        return self.number in _GONE

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(frozen=True, slots=True)
class Container:
    """A container.

    Attributes:
        name: its short id or name.
        runtime: the program that manages it: docker, podman, lxc, machinectl, kubernetes, or empty.
    """

    name: str
    runtime: str = ""


@dataclass(frozen=True, slots=True)
class Supervisor:
    """A program that starts a service again when it ends.

    Attributes:
        name: supervisord, runit, s6, daemontools or openrc.
        service: the service as the supervisor's own command names it: its name, or its folder.
    """

    name: str
    service: str


@dataclass(frozen=True, slots=True)
class Process:
    """A process that holds a socket.

    Attributes:
        pid: as this process sees it.
        name: the short name the kernel keeps (/proc/PID/comm).
        command: the command line, one string; empty if it cannot be read.
        user: the user's name, or number if it has no name here.
        started: seconds since the epoch; None if unknown.
        parent: the parent's pid; 0 if it has none or it is unknown.
        parent_name: the parent's short name.
        unit: the systemd unit it runs in, such as ``redis.service``; empty if none.
        user_unit: True if a user's own systemd or container engine manages it (``systemctl --user``, rootless).
        container: the container it runs in, by short id or name; empty if none, or if it is ours as well.
        runtime: the program that manages the container: docker, podman, lxc, machinectl, kubernetes, or empty.
        within: the containers around ``unit`` or ``container``, the outermost first; empty if that is here.
        manager: the user whose own systemd or container engine manages it; empty if that is the system or the user
            who asks.
        supervisor: the supervisor that starts it again, if it is another one than systemd.
    """

    pid: int
    name: str
    command: str = ""
    user: str = ""
    started: float | None = None
    parent: int = 0
    parent_name: str = ""
    unit: str = ""
    user_unit: bool = False
    container: str = ""
    runtime: str = ""
    within: tuple[Container, ...] = ()
    manager: str = ""
    supervisor: Supervisor | None = None

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


class NamespaceKind(Enum):
    """The kind of name a network namespace is known by."""

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
        kind: the kind of its name.
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

    @property
    def argument(self) -> str:
        """The value of ``--netns`` that names this namespace."""
        if self.is_own:
            return "self"
        return str(self.pids[0]) if self.kind is NamespaceKind.PROCESS and self.pids else self.name

    def enter(self, command: str) -> str:
        """Return a command that runs ``command`` in this network namespace (nsenter(1))."""
        return f"nsenter --net={shlex.quote(self.path)} {command}" if self.path else command

    def tailbite(self, arguments: str) -> str:
        """Return a ``tailbite`` command line that acts in this namespace.

        Args:
            arguments: the command with its options, such as ``fix --reserve 8125 --apply``.
        """
        if self.is_own:
            return f"tailbite {arguments}"
        what, apply, rest = arguments.partition(" --apply")
        return f"tailbite {what} --netns {shlex.quote(self.argument)}{apply}{rest}"

    def __str__(self) -> str:
        if self.is_own:
            return "this namespace"
        return f"{'namespace' if self.kind is NamespaceKind.NAMED else self.kind.value} {self.name}"
