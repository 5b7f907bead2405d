"""Endpoints, and the definition of "connected to itself".

A TCP connection is named by its four-tuple (RFC 9293 section 3.3.1: local and remote socket). It is a
self-connect when both halves are the same endpoint. "The same" has three traps, and all of them are handled
here and nowhere else:

- an ``AF_INET6`` socket to ``::ffff:127.0.0.1`` is an IPv4 connection (RFC 4291 section 2.5.5.2), so a
  v4-mapped address equals the IPv4 one;
- a link-local address means nothing without its zone (RFC 4007 section 6): ``fe80::1%2`` and ``fe80::1%3`` are
  two places, but a zone that was left out (0) may be any of them;
- IPv6 has many spellings of one address (RFC 5952), so hosts are kept in canonical form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

__all__ = ["Endpoint", "FourTuple", "canonical_host", "is_self", "same_host"]

_WILDCARDS = frozenset({"0.0.0.0", "::", ""})
_LOOPBACKS = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})


@lru_cache(maxsize=1024)
def canonical_host(text: str) -> str:
    """Return an IP address in the one form tailbite compares: RFC 5952, no zone, v4-mapped as plain IPv4.

    Raises:
        ValueError: the text is not an IPv4 or IPv6 address.
    """
    without_zone = text.partition("%")[0]
    if without_zone in _LOOPBACKS:
        return without_zone.removeprefix("::ffff:")
    import ipaddress  # 3 ms, and a descriptor, which a process may not have left when it meets a self-connect

    address = ipaddress.ip_address(without_zone)
    if address.version == 6 and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Half of a four-tuple: address and port of one side.

    Attributes:
        host: an IP address in canonical form (see :func:`canonical_host`).
        port: 0 to 65535.
        scope: the zone index of a link-local IPv6 address (an interface index on Linux); 0 means none given.
    """

    host: str
    port: int
    scope: int = 0

    @classmethod
    def from_sockaddr(cls, sockaddr: Any) -> Endpoint:
        """Make an endpoint of the tuple that ``getsockname`` or ``getpeername`` returns for AF_INET or AF_INET6.

        Args:
            sockaddr: a tuple of host and port, for AF_INET6 also flow label and scope.

        Raises:
            ValueError: the host is not an IP address, or the tuple is not a sockaddr of those families.
        """
        if not isinstance(sockaddr, tuple) or len(sockaddr) not in (2, 4):
            raise ValueError(f"{sockaddr!r} is not an AF_INET or AF_INET6 address")
        return cls(canonical_host(sockaddr[0]), sockaddr[1], sockaddr[3] if len(sockaddr) == 4 else 0)

    @property
    def is_wildcard(self) -> bool:
        """True for 0.0.0.0 and ::, which name every address of this host when bound and "this host" when dialled."""
        return self.host in _WILDCARDS

    def __str__(self) -> str:
        host = f"{self.host}%{self.scope}" if self.scope else self.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class FourTuple:
    """Name of a TCP connection: its local and its remote endpoint."""

    local: Endpoint
    remote: Endpoint

    @property
    def is_self(self) -> bool:
        """True if this connection is to itself."""
        return is_self(self.local, self.remote)

    def __str__(self) -> str:
        return f"{self.local} -> {self.remote}"


def same_host(one: Endpoint, other: Endpoint) -> bool:
    """Tell whether two endpoints lie on the same address; a zone that is not given matches any."""
    return one.host == other.host and (one.scope == other.scope or not one.scope or not other.scope)


def is_self(local: Endpoint, remote: Endpoint) -> bool:
    """Tell whether a connection from ``local`` to ``remote`` is a connection to itself."""
    return local.port == remote.port and same_host(local, remote)
