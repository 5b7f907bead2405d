"""A Python of another system, imitated: ``python other_system.py win32 CODE`` takes away what that system lacks.

The kernel below stays Linux: it does connect sockets to themselves, as Windows does.
"""

from __future__ import annotations

import sys

__all__ = ["become"]

WINDOWS = {
    "os": ("fork geteuid getuid getegid uname sched_getaffinity sched_yield waitid pidfd_open memfd_create setns "
           "get_blocking set_blocking eventfd getpgid killpg posix_spawn register_at_fork O_CLOEXEC O_NONBLOCK"),
    "select": "poll epoll",
    "signal": "SIGHUP SIGCHLD SIGKILL SIGUSR1 SIGPIPE pthread_sigmask alarm setitimer sigtimedwait",
    "socket": ("AF_UNIX AF_NETLINK AF_PACKET SO_REUSEPORT SO_BINDTODEVICE SO_PROTOCOL SO_DOMAIN SOCK_CLOEXEC "
               "SOCK_NONBLOCK IPPROTO_MPTCP MSG_DONTWAIT MSG_NOSIGNAL TCP_USER_TIMEOUT send_fds recv_fds "
               "SCM_RIGHTS TCP_INFO"),
}  # fmt: skip
"""Names that the modules of Python for Windows do not have."""

DARWIN = {
    "os": "pidfd_open memfd_create sched_getaffinity setns eventfd",
    "select": "epoll",
    "socket": "AF_NETLINK AF_PACKET SO_BINDTODEVICE SO_PROTOCOL SOCK_CLOEXEC SOCK_NONBLOCK TCP_USER_TIMEOUT",
}

_NO_MODULES = {"win32": ("fcntl", "resource", "termios", "pwd", "grp", "syslog"), "darwin": ()}


def become(system: str) -> None:
    """Make this process look like one of another system; Python's own modules are loaded before, as they were."""
    import asyncio
    import ctypes
    import socket
    import ssl
    import subprocess
    import tempfile
    import threading

    _ = asyncio, ssl, subprocess, tempfile, threading
    unix, pair = socket.AF_UNIX, socket.socketpair
    # None is what an import meets where a module is not installed.
    for module in _NO_MODULES[system]:
        sys.modules[module] = None  # type: ignore[assignment]
    for module, names in (WINDOWS if system == "win32" else DARWIN).items():
        for name in names.split():
            vars(sys.modules[module]).pop(name, None)
    socket.socketpair = lambda *_: pair(unix)  # event loops wake themselves with it
    if system == "win32":
        ctypes.CDLL = _no_library  # type: ignore[assignment,misc]
    sys.platform = system
    sys.addaudithook(_hide_proc)


def _no_library(name: object, *_: object, **__: object) -> None:
    raise TypeError("bad argument type for built-in operation" if name is None else f"there is no {name} here")


def _hide_proc(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and str(arguments[0]).startswith(("/proc/", "/sys/")):
        raise FileNotFoundError(2, "No such file or directory", arguments[0])


if __name__ == "__main__":
    become(sys.argv[1])
    exec(sys.argv[2])
