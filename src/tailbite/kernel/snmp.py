"""TCP's counters of a network namespace: ``/proc/net/snmp`` (proc(5), RFC 4022)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TcpOpens", "counted_since", "parse_snmp", "read_tcp_opens"]

_LONGEST = 1 << 14


@dataclass(frozen=True, slots=True)
class TcpOpens:
    """Connections that were begun, since the namespace was made.

    Attributes:
        active: by connect(2), whether they succeeded or not (ActiveOpens).
        passive: by accept(2)'s side (PassiveOpens).
    """

    active: int
    passive: int


def parse_snmp(text: str) -> TcpOpens:
    """Read the text of ``/proc/net/snmp``.

    Raises:
        ValueError: the text lacks the counters of TCP.
    """
    rows = [line.split() for line in text.splitlines() if line.startswith("Tcp:")]
    if len(rows) != 2:
        raise ValueError("/proc/net/snmp has no counters of TCP")
    counters = dict(zip(*rows, strict=True))
    try:
        return TcpOpens(int(counters["ActiveOpens"]), int(counters["PassiveOpens"]))
    except KeyError as error:
        raise ValueError(f"/proc/net/snmp has no counter {error}") from None


def read_tcp_opens(process: str = "/proc/thread-self") -> TcpOpens:
    """Return the counters of the network namespace of a process or thread; every user may read them.

    Raises:
        OSError: the process is gone, or /proc is not mounted.
        ValueError: the file lacks the counters of TCP.
    """
    with open(f"{process}/net/snmp", encoding="ascii") as file:  # noqa: PTH123
        return parse_snmp(file.read(_LONGEST))


def counted_since(before: int, now: int) -> int:
    """Return how far a counter of the kernel went; one that is smaller than before wrapped around at its width."""
    if now >= before:
        return now - before
    width = 32 if before < 1 << 32 else 64  # unsigned long: 32 bits wide on a 32-bit kernel
    return now + (1 << width) - before
