"""Ports for tests: one that stays dead, and one that stays free for a server."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
from typing import TYPE_CHECKING

from tailbite.core.ports import HIGHEST_PORT, PortRange, PortSet
from tailbite.kernel.sysctl import read_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["hold_refused_port", "reserve_server_port", "safe_ports"]

_LOWEST = 10_000
"""Lower ports are those of common services; above there are enough ports."""

_TRIES = 200


@contextlib.contextmanager
def hold_refused_port() -> Iterator[int]:
    """Hold a port that is bound and not listened on: connects are refused, and the kernel never chooses it.

    Linux refuses at once (measured); macOS lets a connect to such a port wait.

    Raises:
        OSError: no port is free.
    """
    for _ in range(_TRIES):
        with contextlib.ExitStack() as stack:
            holder = stack.enter_context(socket.socket())
            holder.bind(("127.0.0.1", 0))
            port: int = holder.getsockname()[1]
            if _bind_ipv6_too(stack, port):
                yield port
                return
    raise OSError(errno.EADDRINUSE, "no port is free on 127.0.0.1 and ::1 alike")


def _bind_ipv6_too(stack: contextlib.ExitStack, port: int) -> bool:
    """Hold the port on ::1 as well; True if that worked, or there is no IPv6 here."""
    if not socket.has_ipv6:
        return True
    try:
        holder = stack.enter_context(socket.socket(socket.AF_INET6))
        holder.bind(("::1", port))
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


def safe_ports(ephemeral: PortRange) -> PortSet:
    """Return the ports from 10000 up outside the ephemeral range; if that leaves nothing, those from 1024 up."""
    outside = PortSet.of([PortRange(_LOWEST, HIGHEST_PORT)]) - PortSet.of([ephemeral])
    return outside or PortSet.of([PortRange(1024, HIGHEST_PORT)]) - PortSet.of([ephemeral])


@contextlib.contextmanager
def reserve_server_port() -> Iterator[int]:
    """Reserve a port that a server can bind, and no client can take, until the context is left.

    Other processes that ask this function do not get it meanwhile: it is claimed by the name of an abstract Unix
    socket (unix(7)), which the kernel removes when the process ends.

    Raises:
        OSError: the ephemeral range leaves no port, or all of them are in use.
    """
    ephemeral = read_ephemeral_range()
    candidates = list(safe_ports(ephemeral))
    if not candidates:
        raise OSError(
            errno.EADDRNOTAVAIL,
            f"the ephemeral range {ephemeral} leaves no port outside for a server; "
            "narrow it (sysctl net.ipv4.ip_local_port_range) or reserve one (net.ipv4.ip_local_reserved_ports)",
        )
    # A generator of its own: tests seed the global one, and two workers with one seed would race for each port.
    chooser = random.Random(os.urandom(8))
    for port in chooser.sample(candidates, min(len(candidates), _TRIES)):
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                claim.bind(f"\0tailbite/server-port/{port}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            if _is_free(port):
                yield port
                return
    raise OSError(errno.EADDRINUSE, f"found no free port outside the ephemeral range {ephemeral}")


def _is_free(port: int) -> bool:
    """Tell whether a server could bind the port on every address, without SO_REUSEADDR."""
    for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((anywhere, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
    return True
