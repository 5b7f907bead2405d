"""Wait until a server could bind its ports, which it needs before it can start.

The test is a bind(2), as the server will make it. A port can be held by a listener, by a connection whose local port
it is (also a self-connect), by a socket that is only bound, and by TIME-WAIT, and only a bind finds all of these. The
socket of the test never listens, is closed at once, and leaves nothing.
"""

from __future__ import annotations

import contextlib
import errno
import math
import re
import socket
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tailbite.errors import NotReadyError
from tailbite.kernel.sock_diag import SockDiag, TcpState
from tailbite.readiness.gate import check_times
from tailbite.readiness.status import Readiness, TargetStatus
from tailbite.readiness.target import reason_of_name, require_host

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Bind", "wait_until_free"]

_UNKNOWN_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
_LONGEST_PAUSE = 86400.0
"""Seconds; sleep() refuses a time that the kernel's clock cannot represent."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A port that a server is going to bind.

    Attributes:
        host: a name or an address of this host; "" for all addresses.
        port: the port.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Bind:
        """Read ``8080``, ``127.0.0.1:8080``, ``[::1]:8080``.

        Raises:
            ValueError: the text is not a port or HOST:PORT.
        """
        host, _, port = text.rpartition(":")
        if "://" in text or "@" in text:  # which is not repeated: it may have a password
            raise ValueError("a URL is not a port: write it like 8080 or 127.0.0.1:8080")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r} is not a valid port or HOST:PORT: write an IPv6 address like [::1]:8080")
        if port.lower().endswith(("/udp", "/sctp", "/dccp")):
            raise ValueError(f"{text!r} is not a TCP port: --free waits for those only")
        if not host and re.fullmatch(r"[0-9]+[-,][-,0-9]*", port):
            raise ValueError(f"{text!r} is several ports: give --free for each of them")
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
            raise ValueError(f"{text!r} is not a valid port or HOST:PORT: write it like 8080 or 127.0.0.1:8080")
        host = "" if host == "*" else host
        require_host(host, int(port))
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"port {self.port} of {self.host}" if self.host else f"port {self.port}"


def wait_until_free(
    binds: Sequence[Bind],
    *,
    reuse: bool = False,
    timeout: float | None = 60.0,
    interval: float = 0.5,
    on_attempt: Callable[[Readiness], object] | None = None,
) -> tuple[Readiness, ...]:
    """Wait until a server could bind every port.

    Args:
        binds: the ports.
        reuse: True for a server that sets SO_REUSEADDR before it binds: TIME-WAIT does not stop it (socket(7)).
        timeout: seconds for everything; None waits forever, 0 tries once.
        interval: seconds between two attempts.
        on_attempt: called with the readiness of each port after every attempt.

    Raises:
        NotReadyError: a port was not free in time.
        OSError: this process may not bind the port (EACCES), or the address is not one of this host (EADDRNOTAVAIL).
        ValueError: a time out of its range.
    """
    check_times(timeout, interval, 1)
    start = time.monotonic()
    last = [Readiness(str(bind)) for bind in binds]
    while True:
        for number, bind in enumerate(binds):
            status, detail = _try_bind(bind, reuse)
            seconds = round(time.monotonic() - start, 3)
            attempts = last[number].attempts + 1
            last[number] = replace(last[number], status=status, detail=detail, attempts=attempts, seconds=seconds)
            if on_attempt is not None:
                on_attempt(last[number])
        if all(readiness.ready for readiness in last):
            return tuple(last)
        left = None if timeout is None else start + timeout - time.monotonic()
        if left is not None and left <= 0:
            raise NotReadyError(tuple(last), timeout or 0.0)
        time.sleep(min(interval, math.inf if left is None else left, _LONGEST_PAUSE))


def _try_bind(bind: Bind, reuse: bool) -> tuple[TargetStatus, str]:
    try:
        addresses = _addresses(bind)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:  # no name server can be asked yet
            return TargetStatus.NAME_UNKNOWN, error.strerror or str(error)
        why = "is not a name of this host" if error.errno in _UNKNOWN_NAME else "could not be resolved"
        reason = reason_of_name(bind.host) or f"{bind.host} {why} ({error.strerror})"
        raise socket.gaierror(error.errno, reason) from None
    if all(_can_bind(*address, reuse) for address in addresses):
        return TargetStatus.FREE, ""
    with_reuse = not reuse and all(_can_bind(*address, True) for address in addresses)
    status = TargetStatus.TIME_WAIT if _is_left(bind.port) else TargetStatus.IN_USE
    return status, "a server that sets SO_REUSEADDR could bind it" if with_reuse else ""


def _is_left(port: int) -> bool:
    """Tell whether only connections in TIME-WAIT have the port, as far as sockets are listed.

    TIME-WAIT of a server stops no server that sets SO_REUSEADDR, but TIME-WAIT of a client does (also of a client
    that was connected to itself). Connections of a server that has ended, and sockets that are only bound, can be in
    the way of a server without SO_REUSEADDR alone, as TIME-WAIT is, if they have set the option. Before Linux 6.8
    sockets that are only bound are not listed.
    """
    try:
        with SockDiag() as diag:
            return {one.state for one in diag.listing(local_port=port).sockets} == {TcpState.TIME_WAIT}
    except OSError:
        return False  # not visible, so not claimed


def _addresses(bind: Bind) -> list[tuple[int, Any]]:
    if bind.host:
        found = socket.getaddrinfo(bind.host, bind.port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
        return [(int(family), address) for family, _, _, _, address in found]
    addresses: list[tuple[int, Any]] = [(socket.AF_INET, ("0.0.0.0", bind.port))]
    if socket.has_ipv6 and _has_family(socket.AF_INET6):
        addresses.append((socket.AF_INET6, ("::", bind.port)))
    return addresses


def _has_family(family: int) -> bool:
    with contextlib.suppress(OSError), socket.socket(family) as sock:
        sock.bind(("::", 0))
        return True
    return False


def _can_bind(family: int, address: Any, reuse: bool) -> bool:
    with socket.socket(family) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # the IPv4 half is asked for itself
        if reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            where = Bind(address[0], address[1])
            raise type(error)(error.errno, f"{error.strerror}: {where}") from None
    return True
