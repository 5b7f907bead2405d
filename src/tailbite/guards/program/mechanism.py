"""Which guard this system allows for a program that is not ours: facts in, a choice out.

==========================================================  ===========  =================================
what is so                                                  mechanism    the supervisor is
==========================================================  ===========  =================================
the user named the ports                                    NAMED_PORTS  beside the program
no Linux 5.8, no seccomp, memory cannot be read, Yama 2, 3  NONE
descriptors can be copied and sockets can have a range      STEER        beside it; above it with Yama 1
otherwise                                                   HOLD         the same
==========================================================  ===========  =================================

Beside: a process that is no relative, so the program keeps the pid, parent and terminal it was called with. Above:
the program's parent, because Yama's scope 1 lets only ancestors look into a process.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = ["Choice", "Limits", "Mechanism", "Place", "choose", "look"]

FIRST_RELEASE: Final = (5, 8)
"""A listener tells that nobody is left to listen to (POLLHUP) since Linux 5.8; without that helpers never end.
Answering "let the call run" needs 5.5, copying a descriptor 5.6."""


class Mechanism(Enum):
    """How P is kept from being the source port of a program that is not ours."""

    STEER = "steered before each connect"
    HOLD = "held while it connects"
    NAMED_PORTS = "held as long as the program runs"
    NONE = "not guarded"


class Place(Enum):
    """Where the supervisor is, seen from the program."""

    BESIDE = "beside"
    ABOVE = "above"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the system allows.

    Attributes:
        system: ``sys.platform``.
        machine: ``os.uname().machine``.
        is_known_machine: the system call numbers of that machine are known.
        release: the kernel's version, its first two numbers.
        reports_calls: the kernel has seccomp user notification.
        reads_memory: process_vm_readv(2) is not forbidden here.
        copies_descriptors: pidfd_getfd(2) is not forbidden here.
        steers: sockets can have a port range of their own (IP_LOCAL_PORT_RANGE, Linux 6.3).
        yama: kernel.yama.ptrace_scope, 0 to 3.
        is_privileged: CAP_SYS_PTRACE is in effect, which Yama up to scope 2 gives way to.
    """

    system: str
    machine: str
    is_known_machine: bool
    release: tuple[int, int]
    reports_calls: bool
    reads_memory: bool
    copies_descriptors: bool
    steers: bool
    yama: int
    is_privileged: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """What to do, and if it is nothing, why: half a sentence."""

    mechanism: Mechanism
    place: Place = Place.BESIDE
    reason: str = ""


def choose(limits: Limits, *, names_ports: bool = False, stays_parent: bool = False) -> Choice:
    """Choose the mechanism that covers the most of what this system allows.

    Args:
        limits: what the system allows.
        names_ports: the user named the ports to guard.
        stays_parent: the supervisor is to see the program's end, so it has to be its parent.
    """
    place = Place.ABOVE if stays_parent else Place.BESIDE
    if limits.system != "linux":
        return Choice(Mechanism.NONE, place, f"this is {limits.system}, and programs can be guarded on Linux only")
    if names_ports:
        return Choice(Mechanism.NAMED_PORTS, place)
    if (reason := _hindrance(limits)) is not None:
        return Choice(Mechanism.NONE, place, reason)
    if limits.yama == 1 and not limits.is_privileged:
        place = Place.ABOVE
    return Choice(Mechanism.STEER if limits.copies_descriptors and limits.steers else Mechanism.HOLD, place)


def _hindrance(limits: Limits) -> str | None:
    if not limits.is_known_machine:
        return f"the system call numbers of {limits.machine} are not known to tailbite"
    if limits.release < FIRST_RELEASE:
        found, needed = (".".join(map(str, release)) for release in (limits.release, FIRST_RELEASE))
        return f"this is Linux {found}, and watching connect calls needs Linux {needed}"
    if not limits.reports_calls:
        return "this kernel or container does not allow seccomp user notification"
    if limits.yama > 2 or (limits.yama == 2 and not limits.is_privileged):
        return (
            f"Yama does not let one process look into another here (sysctl kernel.yama.ptrace_scope is {limits.yama})"
        )
    if not limits.reads_memory:
        return "reading another process's memory is forbidden here (a container's seccomp profile does that)"
    return None


def look() -> Limits:
    """Ask this system what it allows; changes nothing."""
    from tailbite.kernel import capabilities, memory, pidfd, seccomp, sockopt
    from tailbite.kernel.release import kernel_version

    machine = os.uname().machine
    abi = seccomp.ABIS.get(machine) if sys.byteorder == "little" and sys.maxsize > 1 << 32 else None
    is_linux = sys.platform.startswith("linux")
    return Limits(
        system="linux" if is_linux else sys.platform,
        machine=machine,
        is_known_machine=abi is not None,
        release=kernel_version(),
        reports_calls=is_linux and abi is not None and seccomp.is_supported(abi),
        reads_memory=is_linux and memory.can_read_memory(),
        copies_descriptors=is_linux and pidfd.can_copy_descriptors(),
        steers=sockopt.supports_local_port_range(),
        yama=memory.yama_scope(),
        is_privileged=capabilities.has_capability(capabilities.CAP_SYS_PTRACE),
    )
