"""An address as this host treats it: its own or not, free to bind or not, and the source of a client that dials it.

All is asked with UDP sockets: UDP has ports of its own, so no TCP port is touched, and a UDP socket that is connected
sends nothing.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from tailbite.kernel.sysctl import read_sysctl

__all__ = ["HostAddress", "ask_address"]

_ANY_PORT = 9  # discard; nothing is sent to it
_NONLOCAL = {socket.AF_INET: "ip_nonlocal_bind", socket.AF_INET6: "../ipv6/ip_nonlocal_bind"}


@dataclass(frozen=True, slots=True)
class HostAddress:
    """An address as this network namespace treats it.

    Attributes:
        is_own: True if packets to it are delivered here.
        may_bind: True if a server may bind it: it is this host's own, or ``ip_nonlocal_bind`` is set (ip-sysctl.rst).
        source: the source address that the kernel chooses for a client that dials it; empty if there is no route.
    """

    is_own: bool
    may_bind: bool
    source: str = ""

    def reaches_itself(self, host: str) -> bool:
        """Tell whether a client that dials the address has that address as its source too.

        127.0.0.2 and its like belong to the host, but a client that dials one of them has the source 127.0.0.1. Such
        a client cannot be connected to itself, unless it binds the address first.
        """
        return not self.source or self.source == host.partition("%")[0]


def ask_address(host: str) -> HostAddress:
    """Ask the kernel about an address in the calling thread's network namespace.

    Args:
        host: an IP address; a link-local one with the index of its interface as its zone.

    Raises:
        OSError: the system did not say.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    source = _source(family, host)
    may_bind = _may_bind(family, host)
    if may_bind and read_sysctl(_NONLOCAL[family]) not in (None, "0"):
        return HostAddress(source == host.partition("%")[0] or source.startswith("127."), True, source)
    return HostAddress(may_bind, may_bind, source)


def _source(family: int, host: str) -> str:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((host, _ANY_PORT))
        except OSError:
            return ""  # no route, or a broadcast address
        return str(sock.getsockname()[0]).partition("%")[0]


def _may_bind(family: int, host: str) -> bool:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((host, 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False
            raise
        return True
