"""The records that all looks at a host share: where, who, and what could not be looked at.

What could not be looked at (no permission, gone meanwhile, a file this kernel does not have) is a :class:`Blind`,
never silence: an empty list with a :class:`Blind` beside it says something else than an empty one alone.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from enum import Enum

__all__ = ["Blind", "Namespace", "NamespaceKind", "Process", "not_permitted"]


def not_permitted(what: str = "it") -> str:
    """Return why something is closed to this user, and what would open it."""
    if os.geteuid() == 0:  # in a container, say: ptrace(2) asks for every capability that the other process has
        return f"not permitted, though we are root: a capability is missing here to see {what}"
    return f"not permitted: run as root to see {what}"


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
            return cls(what, not_permitted(), number)
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
