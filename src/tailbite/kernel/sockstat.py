"""The number of TCP sockets in a network namespace: ``/proc/net/sockstat`` and ``sockstat6``.

Listing the sockets of a namespace costs a walk of the TCP hash table, which all namespaces of the machine share
(262 144 buckets and more), whether the namespace has sockets or not. The kernel also counts the sockets of each
namespace, and reading the counts costs a hundredth of a walk.

"inuse" counts sockets that listen or have a connection (``sock_prot_inuse_add`` in ``inet_hash`` and ``inet_unhash``,
net/ipv4/inet_hashtables.c), IPv4 and IPv6 apart; "tw" counts TIME-WAIT and FIN-WAIT-2 of both families; both are of
the namespace. "orphan", "alloc" and "mem" are of the whole machine. Sockets that are bound only are not counted.
"""
# ruff: noqa: PTH123 - pathlib takes 4 ms to load

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TcpUsage", "parse_sockstat", "read_tcp_usage"]

_LONGEST = 4096


@dataclass(frozen=True, slots=True)
class TcpUsage:
    """The TCP sockets of one network namespace.

    Attributes:
        in_use: sockets that listen or have a connection.
        time_wait: TIME-WAIT entries, and FIN-WAIT-2 of sockets that were closed.
        sockets: sockets of any protocol that programs have open, Unix sockets and netlink included.
    """

    in_use: int
    time_wait: int
    sockets: int

    @property
    def is_empty(self) -> bool:
        """True if no TCP socket listens, has a connection or is in TIME-WAIT."""
        return not self.in_use and not self.time_wait


def parse_sockstat(sockstat: str, sockstat6: str) -> TcpUsage:
    """Read the text of the two files; an empty ``sockstat6`` is that of a kernel without IPv6.

    Raises:
        ValueError: a file does not have the lines that every kernel writes.
    """
    four, six = _lines(sockstat), _lines(sockstat6)
    try:
        in_use = four["TCP"]["inuse"] + (six["TCP6"]["inuse"] if sockstat6 else 0)
        return TcpUsage(in_use, four["TCP"]["tw"], four["sockets"]["used"])
    except KeyError as error:
        raise ValueError(f"sockstat has no field {error}") from None


def _lines(text: str) -> dict[str, dict[str, int]]:
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        found[name] = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    return found


def read_tcp_usage(process: str = "/proc/thread-self") -> TcpUsage:
    """Return the counts of the network namespace of a process or thread; every user may read them.

    Args:
        process: its folder below /proc; the calling thread's by default.

    Raises:
        OSError: the process is gone, or /proc is not mounted.
        ValueError: a file does not have the lines that every kernel writes.
    """
    try:
        six = _read(f"{process}/net/sockstat6")
    except FileNotFoundError:
        six = ""
    return parse_sockstat(_read(f"{process}/net/sockstat"), six)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read(_LONGEST)
