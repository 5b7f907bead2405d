"""The control of every trap: a plain client, which must connect to itself where a trap is armed."""

from __future__ import annotations

import socket

from tailbite.core.address import Endpoint, is_self
from tailbite.kernel.sockopt import abort

__all__ = ["connects_to_itself", "family_of"]


def family_of(host: str) -> socket.AddressFamily:
    """Return the address family of a numeric address, or AF_INET for a name."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def connects_to_itself(host: str, port: int, *, binds_first: bool = False, attempts: int = 4) -> bool:
    """Connect a plain socket, and tell whether it connected to itself; nothing is left on the port.

    Args:
        host: the numeric address to dial.
        port: the dead port.
        binds_first: True to take the source port by bind(2) to port 0, which uses the kernel's other allocator.
        attempts: how often to dial. In a range of two ports the first connect hits; up to three more allow for the
            kernel's random perturbation of the start (RFC 6056, section 3.3.4).
    """
    return any(_once(host, port, binds_first) for _ in range(attempts))


def _once(host: str, port: int, binds_first: bool) -> bool:
    sock = socket.socket(family_of(host))
    try:
        if binds_first:
            sock.bind((host, 0))
        sock.connect((host, port))
        return is_self(Endpoint.from_sockaddr(sock.getsockname()), Endpoint.from_sockaddr(sock.getpeername()))
    except OSError:
        return False
    finally:
        abort(sock)
