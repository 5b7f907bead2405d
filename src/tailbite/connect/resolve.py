"""Addresses of numeric hosts, which need no resolver, and the order in which a name's addresses are tried."""

from __future__ import annotations

import itertools
import socket
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["AddrInfo", "interleaved", "numeric", "numeric_for_asyncio"]

AddrInfo: TypeAlias = tuple[int, int, int, str, Any]
"""Family, type, protocol, canonical name and sockaddr, as getaddrinfo(3) returns them for one address."""

_RESOLVER = socket.getaddrinfo
_FAMILIES = (socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6)


def numeric(host: object, port: object, family: int = 0) -> list[AddrInfo] | None:
    """Return the result of getaddrinfo(3) for a plain IP address and a port number, or None: then ask getaddrinfo.

    asyncio has the same short cut. Here it pays for the guard: getaddrinfo is a fifth of a loopback connect, and
    the plan costs less than that. A replacement of ``socket.getaddrinfo``, as tests make it, is asked all the same.
    """
    if type(host) is not str or type(port) is not int or not 0 <= port <= 65535:
        return None
    if socket.getaddrinfo is not _RESOLVER:
        return None
    try:
        return _parse(host, port, family)
    except ValueError:  # getaddrinfo says what is wrong
        return None


def numeric_for_asyncio(
    host: Any, port: Any, family: int, proto: int, flow_info: int = 0, scope_id: int = 0
) -> list[AddrInfo] | None:
    """Return the addresses that asyncio connects to without asking a resolver, or None: then ask the loop.

    As in asyncio's ``_ipaddr_info``, ports are taken as they are: connect(2)'s wrapper in Python says what is wrong
    with 70000, while getaddrinfo would take it for 4464.

    Raises:
        TypeError: the host is neither a string nor bytes.
        ValueError: the host contains a NUL character, or one that is not Unicode.
    """
    if host is None or proto not in (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP) or family not in _FAMILIES:
        return None
    if isinstance(family, float):
        return None  # equal to a family, and refused by getaddrinfo
    if port is None or port in ("", b""):
        port = 0
    try:
        number = int(port)
    except (TypeError, ValueError):
        return None
    if isinstance(host, bytes):
        host = host.decode("idna")
    return None if "%" in host else _parse(host, number, family, flow_info, scope_id)


def _parse(host: str, port: int, family: int, flow_info: int = 0, scope_id: int = 0) -> list[AddrInfo] | None:
    if family != socket.AF_INET6:
        try:
            socket.inet_pton(socket.AF_INET, host)
        except OSError:
            pass
        else:
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
    if family != socket.AF_INET:
        try:
            socket.inet_pton(socket.AF_INET6, host)
        except OSError:
            return None
        return [(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, flow_info, scope_id))]
    return None


def interleaved(infos: Sequence[AddrInfo], first_family_count: int = 1) -> list[AddrInfo]:
    """Return the addresses with the families taking turns (RFC 8305 section 4), each family in its own order."""
    families: dict[int, list[AddrInfo]] = {}
    for info in infos:
        families.setdefault(info[0], []).append(info)
    if not families:
        return []
    first, *others = families.values()
    ahead = first_family_count - 1 if first_family_count > 1 else 0
    turns = itertools.zip_longest(first[ahead:], *others)
    return first[:ahead] + [info for turn in turns for info in turn if info is not None]
