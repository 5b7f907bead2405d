"""The number of TCP sockets in a namespace, without a walk of the table of connections, which all namespaces share.

Most namespaces of a busy node have no TCP socket, or listeners alone: neither can have a self-connect.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tailbite.kernel.procfs import PROC
from tailbite.kernel.sockstat import TcpUsage, read_tcp_usage

if TYPE_CHECKING:
    from tailbite.host.see.records import Namespace

__all__ = ["are_listeners_all", "read_usage", "usage_here"]


def read_usage(namespace: Namespace) -> TcpUsage | None:
    """Return the counts of a namespace; None if only an inspection can tell.

    A namespace without a process (``ip netns add``) has no folder below /proc to read them from, and a process may
    have ended, or changed its namespace, since the namespaces were listed.
    """
    if namespace.is_own:
        return usage_here()
    if not namespace.pids:
        return None
    folder = f"{PROC}/{namespace.pids[0]}"
    usage = _read(folder)
    try:
        is_the_same = os.readlink(f"{folder}/ns/net") == f"net:[{namespace.inode}]"  # noqa: PTH115
    except OSError:
        return None
    return usage if is_the_same else None


def usage_here() -> TcpUsage | None:
    """Return the counts of the calling thread's namespace; None if they cannot be read."""
    return _read(f"{PROC}/thread-self")


def are_listeners_all(listeners: int, *counts: TcpUsage | None) -> bool:
    """Tell whether a namespace has no TCP socket but its listeners, so that nothing there is connected.

    Args:
        listeners: the number of listening sockets, which a table of their own lists at a tenth of a walk's cost.
        counts: the kernel's counts before and after that listing; None stands for counts that could not be read.
    """
    return all(one is not None and not one.time_wait and one.in_use == listeners for one in counts)


def _read(folder: str) -> TcpUsage | None:
    try:
        return read_tcp_usage(folder)
    except (OSError, ValueError):
        return None
