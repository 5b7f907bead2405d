"""User and network namespaces (namespaces(7)): a private network for what must not be done to the host's.

Nothing here outlives the process: the kernel removes a namespace with its last process, descriptor and mount,
whether that process returned or was killed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
import threading
from typing import TYPE_CHECKING

from tailbite.errors import NamespaceUnavailable
from tailbite.kernel.libc import last_error, libc
from tailbite.kernel.sysctl import write_sysctl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "CLONE_FILES",
    "CLONE_NEWNET",
    "CLONE_NEWUSER",
    "bring_up",
    "enter_private_network",
    "entered",
    "fresh_network",
    "give_child_networks_small_tables",
    "setns",
    "unshare",
]

CLONE_FILES = 0x400
"""unshare(2) with this flag gives the calling thread a descriptor table of its own."""
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
"""unshare(2) with this flag makes a network namespace (include/uapi/linux/sched.h)."""
_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x1 | 0x40
_SMALL_TABLE = 4096
_THREAD_NETWORK = "/proc/thread-self/ns/net"
_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"


def unshare(flags: int) -> None:
    """Call unshare(2), which Python has since 3.12 only.

    Raises:
        OSError: not permitted, or no such namespace in this kernel.
    """
    if libc().unshare(flags) != 0:
        raise last_error("unshare")


def setns(descriptor: int, flags: int) -> None:
    """Call setns(2), which Python has since 3.12 only; a network namespace changes for the calling thread alone.

    Raises:
        OSError: not permitted, or the descriptor is of another kind.
    """
    if libc().setns(descriptor, flags) != 0:
        raise last_error("setns")


def bring_up(interface: str = "lo") -> None:
    """Set an interface of the calling thread's network namespace UP (netdevice(7), SIOCSIFFLAGS).

    Raises:
        OSError: no such interface, or not permitted.
    """
    import fcntl  # here, so that the module can be imported on Windows

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", interface.encode(), _IFF_UP_RUNNING))


def enter_private_network(*, keep_user: bool = False) -> None:
    """Move this whole process into a network namespace of its own, with ``lo`` up. This cannot be undone.

    Root (CAP_SYS_ADMIN) needs no user namespace, and keeps its users. Other users become root of a new user
    namespace that has one user, which the kernel allows single-threaded processes only.

    Args:
        keep_user: keep the user and group in the new user namespace instead of becoming its root. This process and
            its forks have all capabilities there in both cases; programs they execute have none (capabilities(7)),
            as outside. Programs that refuse to run as root can run then.

    Raises:
        NamespaceUnavailable: this system does not allow it; the error says which setting.
    """
    from pathlib import Path

    _require_linux()
    user, group = os.geteuid(), os.getegid()
    try:
        try:
            unshare(CLONE_NEWNET)
        except PermissionError:
            unshare(CLONE_NEWUSER | CLONE_NEWNET)
            # Denying setgroups is the price of mapping the own group without privilege (user_namespaces(7)).
            Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
            Path("/proc/self/uid_map").write_text(f"{user if keep_user else 0} {user} 1", encoding="ascii")
            Path("/proc/self/gid_map").write_text(f"{group if keep_user else 0} {group} 1", encoding="ascii")
        bring_up()
    except OSError as error:
        raise NamespaceUnavailable(error.errno or errno.EPERM, _why_not(error)) from error
    _require_settings()


@contextlib.contextmanager
def fresh_network() -> Iterator[None]:
    """Put the calling thread into a new network namespace with ``lo`` up, and back at the end.

    Needs CAP_SYS_ADMIN, which root has, and every user after :func:`enter_private_network`. Threads and
    processes started inside stay in the new namespace.

    Raises:
        NamespaceUnavailable: not permitted.
    """
    _require_linux()
    try:
        home = os.open(_THREAD_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NamespaceUnavailable(errno.ENOENT, "/proc is not mounted here: mount -t proc proc /proc") from error
    try:
        try:
            unshare(CLONE_NEWNET)
        except OSError as error:
            raise NamespaceUnavailable(error.errno or errno.EPERM, _why_not(error)) from error
        try:
            bring_up()
            _require_settings()
            yield
        finally:
            setns(home, CLONE_NEWNET)
    finally:
        os.close(home)


def give_child_networks_small_tables() -> None:
    """Let each network namespace that is made in this one have a table of connections of its own, with 4,096 buckets.

    A dump of sockets (sock_diag(7)) walks the whole table. The table that all namespaces share has 262,144 buckets on
    a host with 24 GB: 0.2 ms for every dump. Needs Linux 6.1 (net.ipv4.tcp_child_ehash_entries) and the permission;
    without them nothing changes.
    """
    with contextlib.suppress(OSError):
        write_sysctl("tcp_child_ehash_entries", str(_SMALL_TABLE))


@contextlib.contextmanager
def entered(path: str | Path) -> Iterator[None]:
    """Put the calling thread into the network namespace behind ``path``, e.g. /proc/PID/ns/net, and back at the end.

    Raises:
        OSError: the path is gone, or not permitted (CAP_SYS_ADMIN over that namespace).
    """
    home = os.open(_THREAD_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(target, CLONE_NEWNET)
        finally:
            os.close(target)
        try:
            yield
        finally:
            setns(home, CLONE_NEWNET)
    finally:
        os.close(home)


def _require_linux() -> None:
    if not sys.platform.startswith("linux"):
        raise NamespaceUnavailable(errno.ENOSYS, f"this is {sys.platform}, and private networks exist on Linux only")


def _require_settings() -> None:
    """Refuse a network whose ephemeral range cannot be set: containers often have a read-only /proc/sys."""
    try:
        os.close(os.open(_RANGE, os.O_WRONLY | os.O_CLOEXEC))
    except OSError as error:
        remedy = (
            "mount -o remount,rw /proc/sys, or Docker: --privileged" if error.errno == errno.EROFS else "mount /proc"
        )
        reason = f"the port range of a private network cannot be set here ({_RANGE}: {error.strerror}): {remedy}"
        raise NamespaceUnavailable(error.errno or errno.EPERM, reason) from error


def _setting(path: str) -> str | None:
    from pathlib import Path

    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return None


def _why_not(error: OSError) -> str:
    """Name the setting that forbids the namespace; every distribution has its own."""
    if _setting("/proc/sys/user/max_user_namespaces") == "0":
        return "user namespaces are switched off here (sysctl user.max_user_namespaces is 0)"
    if _setting("/proc/sys/user/max_net_namespaces") == "0":
        return "network namespaces are switched off here (sysctl user.max_net_namespaces is 0)"
    if _setting("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return (
            "only root may make user namespaces here (sysctl kernel.unprivileged_userns_clone is 0, a Debian setting)"
        )
    if _setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "AppArmor keeps unprivileged programs from using user namespaces here "
            "(sysctl kernel.apparmor_restrict_unprivileged_userns is 1, an Ubuntu setting)"
        )
    if error.errno == errno.EINVAL and threading.active_count() > 1:
        return "a process with more than one thread cannot enter a user namespace"
    if error.errno in (errno.ENOSPC, errno.EUSERS):
        return "the limit of user or network namespaces is reached here (sysctls user.max_*_namespaces)"
    if error.errno == errno.ENOSYS or error.errno == errno.EINVAL:
        return "this kernel has no user or network namespaces (CONFIG_USER_NS, CONFIG_NET_NS)"
    return (
        f"this system does not let us make a private network namespace ({error.strerror}); "
        "in a container its seccomp or capability profile forbids it (Docker: --cap-add SYS_ADMIN "
        "or --security-opt seccomp=unconfined)"
    )
