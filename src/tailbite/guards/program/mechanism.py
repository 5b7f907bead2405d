"""The guard that this system allows for any program: capabilities in, a choice out.

================================================================  ===========  =================================
system capability                                                 mechanism    place of the supervisor
================================================================  ===========  =================================
the user named the ports, and a helper can learn when it ends   NAMED_PORTS  beside the program
no user notification that reports its end, no /proc, memory       NONE
cannot be read, Yama 2 without privilege, Yama 3; neither of the next two
descriptors can be copied and sockets can have a range            STEER        beside it; above it with Yama 1
otherwise                                                         HOLD         the same
================================================================  ===========  =================================

Beside: a process that is not a relative, so the program keeps the pid, parent and terminal it was called with. Above:
the program's parent, because Yama's scope 1 lets only ancestors trace a process.
"""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = [
    "CANNOT_LEARN_END",
    "FEWEST_FILES",
    "Capabilities",
    "Choice",
    "Mechanism",
    "Place",
    "choose",
    "make_room_for_files",
    "read_capabilities",
    "what_works_instead",
]

REPORTS_END: Final = (5, 8)
"""A listener reports that no process is left under its filter (POLLHUP) since Linux 5.8; without that helpers would
never end. Answering "let the call run" needs 5.5, copying a descriptor 5.6."""

FEWEST_FILES: Final = 16
"""A worker has up to eleven descriptors, and four more while it inspects a call; with less, it could not guard."""

_NAMES_PORTS_INSTEAD: Final = (
    "what does work here: --port PORT for each port it connects to, --in-process for Pythons"
)
_NAMES_NO_PORTS_INSTEAD: Final = "what does work here: --in-process for Pythons"

CANNOT_LEARN_END: Final = "a helper cannot learn here when the program ends (pidfd_open, Linux 5.3)"

_CANNOT_HOLD: Final = "a port cannot be held here (a filter of system calls forbids a socket option that this needs)"


class Mechanism(Enum):
    """A way to keep P from becoming the source port of a program that is not ours."""

    STEER = "the source port is steered before each connect"
    HOLD = "the destination port is held while it connects"
    NAMED_PORTS = "the named ports are held as long as the program runs"
    NONE = "not guarded"


class Place(Enum):
    """The place of the supervisor, seen from the program."""

    BESIDE = "beside"
    ABOVE = "above"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The abilities of this system, and its restrictions.

    Attributes:
        system: ``sys.platform``.
        machine: :func:`~tailbite.kernel.libc.architecture`.
        is_known_machine: the system call numbers of that machine are known.
        release: the kernel's version, its first two numbers.
        reports_calls: the kernel has seccomp user notification.
        reports_end: a listener reports that no process is left under its filter.
        has_proc: /proc is mounted and shows this process.
        reads_memory: process_vm_readv(2) is not forbidden here.
        shows_end: pidfd_open(2) exists and is not forbidden here, so a helper can learn when a program ends.
        copies_descriptors: pidfd_getfd(2) exists and is not forbidden here.
        steers: sockets can have a port range of their own (IP_LOCAL_PORT_RANGE; Linux 6.3, backported by some).
        holds: a port can be held on an address that no server uses; not asked where sockets are steered.
        yama: kernel.yama.ptrace_scope, 0 to 3.
        open_files: the hard limit of open files (RLIMIT_NOFILE).
        is_privileged: CAP_SYS_PTRACE is in effect, which Yama's scopes 1 and 2 do not restrict.
    """

    system: str
    machine: str
    is_known_machine: bool
    release: tuple[int, int]
    reports_calls: bool
    reports_end: bool
    has_proc: bool
    reads_memory: bool
    shows_end: bool
    copies_descriptors: bool
    steers: bool
    holds: bool
    yama: int
    is_privileged: bool
    open_files: int = sys.maxsize


@dataclass(frozen=True, slots=True)
class Choice:
    """The mechanism to use.

    Attributes:
        mechanism: the mechanism.
        place: the place of the supervisor.
        reason: for ``NONE``, half a sentence that says why.
        copies: the supervisor can copy the program's descriptors.
        steers: sockets can have a port range.
    """

    mechanism: Mechanism
    place: Place = Place.BESIDE
    reason: str = ""
    copies: bool = True
    steers: bool = True

    @property
    def not_covered(self) -> tuple[str, ...]:
        """The clients that this mechanism does not guard, for people; the same on every system is left out."""
        binds_first = "a client that binds to port 0 before it connects"
        if self.mechanism is Mechanism.NAMED_PORTS:
            return (binds_first, "ports that were not named", "what outlives the program")
        if self.mechanism is Mechanism.HOLD and not self.copies:
            return (binds_first,)
        return ()


def choose(capabilities: Capabilities, *, names_ports: bool = False, stays_parent: bool = False) -> Choice:
    """Choose the mechanism that covers the most that this system allows.

    Args:
        capabilities: the abilities of the system.
        names_ports: the user named the ports to guard.
        stays_parent: the supervisor has to report the program's end, so it has to be its parent.
    """
    place = Place.ABOVE if stays_parent else Place.BESIDE
    if capabilities.system != "linux":
        reason = (
            f"this is {capabilities.system}, and programs can be guarded on Linux only; {_NAMES_NO_PORTS_INSTEAD}"
        )
        return Choice(Mechanism.NONE, place, reason)
    if capabilities.open_files < FEWEST_FILES:
        reason = (
            f"the limit of open files is {capabilities.open_files} (ulimit -Hn), and a guard needs {FEWEST_FILES}"
        )
        return Choice(Mechanism.NONE, place, reason)
    if names_ports and not capabilities.shows_end:
        return Choice(Mechanism.NONE, place, f"{CANNOT_LEARN_END}; {_NAMES_NO_PORTS_INSTEAD}")
    if names_ports:
        return Choice(Mechanism.NAMED_PORTS, place)
    if (reason_or_none := _hindrance(capabilities)) is not None:
        instead = _instead(capabilities.shows_end and capabilities.holds)
        return Choice(Mechanism.NONE, place, f"{reason_or_none}; {instead}")
    if capabilities.yama == 1 and not capabilities.is_privileged:
        place = Place.ABOVE
    copies, steers = capabilities.copies_descriptors, capabilities.steers
    if not (copies and steers) and not capabilities.holds:
        return Choice(Mechanism.NONE, place, f"{_CANNOT_HOLD}; {_NAMES_NO_PORTS_INSTEAD}")
    return Choice(Mechanism.STEER if copies and steers else Mechanism.HOLD, place, copies=copies, steers=steers)


def _hindrance(capabilities: Capabilities) -> str | None:
    if not capabilities.is_known_machine:
        return f"the system call numbers of {capabilities.machine} are not known to tailbite"
    if not capabilities.reports_calls:
        return "this kernel or container does not allow seccomp user notification"
    if not capabilities.reports_end:
        found, needed = (".".join(map(str, release)) for release in (capabilities.release, REPORTS_END))
        return f"this is Linux {found}, and inspecting connect calls needs Linux {needed} or a backport"
    if capabilities.yama > 2 or (capabilities.yama == 2 and not capabilities.is_privileged):
        return (
            "Yama does not let one process trace another here "
            f"(sysctl kernel.yama.ptrace_scope is {capabilities.yama})"
        )
    if not capabilities.has_proc:
        return "/proc is not mounted here, and namespaces and threads cannot be inspected without it"
    if not capabilities.reads_memory:
        return "reading another process's memory is forbidden here (a container's seccomp profile does that)"
    return None


def _instead(names_ports: bool) -> str:
    return _NAMES_PORTS_INSTEAD if names_ports else _NAMES_NO_PORTS_INSTEAD


def what_works_instead() -> str:
    """Return what guards a program here when its calls cannot be inspected; asks the system."""
    from tailbite.kernel.pidfd import can_watch_processes

    return _instead(can_watch_processes() and _can_hold())


def read_capabilities() -> Capabilities:
    """Ask this system for its abilities; changes nothing."""
    from tailbite.kernel import capabilities, memory, pidfd, seccomp, sockopt
    from tailbite.kernel.libc import architecture
    from tailbite.kernel.release import kernel_version

    machine = architecture()
    abi = seccomp.ABIS.get(machine)
    is_linux = sys.platform.startswith("linux")
    release = kernel_version()
    reports_calls = is_linux and abi is not None and seccomp.is_supported(abi)
    copies_descriptors, steers = is_linux and pidfd.can_copy_descriptors(), sockopt.supports_local_port_range()
    return Capabilities(
        system="linux" if is_linux else sys.platform,
        machine=machine,
        is_known_machine=abi is not None,
        release=release,
        reports_calls=reports_calls,
        reports_end=reports_calls and (release >= REPORTS_END or _reports_end()),
        has_proc=os.access("/proc/self/ns/net", os.F_OK),
        reads_memory=is_linux and memory.can_read_memory(),
        shows_end=is_linux and pidfd.can_watch_processes(),
        copies_descriptors=copies_descriptors,
        steers=steers,
        holds=(copies_descriptors and steers) or (is_linux and _can_hold()),
        yama=memory.yama_scope(),
        is_privileged=capabilities.has_capability(capabilities.CAP_SYS_PTRACE),
        open_files=_hard_limit_of_files(),
    )


def make_room_for_files() -> tuple[int, int] | None:
    """Raise the soft limit of open files to what a guard needs; return the limits before, None if they suffice."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not 0 <= limits[0] < FEWEST_FILES <= _hard_limit_of_files():
        return None
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEWEST_FILES, limits[1]))
    return limits


def _hard_limit_of_files() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def _can_hold() -> bool:
    from tailbite.guards.program.port_hold import hold

    try:
        hold(0).close()
    except OSError:
        return False
    return True


def _reports_end() -> bool:
    from tailbite.guards.program.probe import reports_end

    return reports_end()
