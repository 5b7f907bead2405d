"""Sets of TCP ports: the ephemeral range, and lists such as ``ip_local_reserved_ports``."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["HIGHEST_PORT", "PortRange", "PortSet", "shortened"]

HIGHEST_PORT = 65535
_LONGEST_LIST = 200


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports ``low`` to ``high``, both included.

    Raises:
        ValueError: not 0 <= low <= high <= 65535.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= HIGHEST_PORT:
            raise ValueError(f"{self.low}-{self.high} is not a valid port range: 0 <= low <= high <= {HIGHEST_PORT}")

    @classmethod
    def parse(cls, text: str) -> PortRange:
        """Read ``"9000-65500"``, or the two numbers of ``ip_local_port_range``.

        Args:
            text: the two ports, with a hyphen or blanks between them.

        Raises:
            ValueError: the text is neither.
        """
        parts = [part.strip() for part in (text.split("-") if "-" in text else text.split())]
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
            raise ValueError(f"{text.strip()!r} is not a valid port range: write it as LOW-HIGH, such as 9000-65500")
        return cls(int(parts[0]), int(parts[1]))

    def __contains__(self, port: int) -> bool:
        return self.low <= port <= self.high

    def __len__(self) -> int:
        return self.high - self.low + 1

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.low, self.high + 1))

    def around(self, port: int) -> tuple[PortRange, ...]:
        """Return what is left of this range when ``port`` is taken out: no, one or two ranges, the lower first."""
        if port not in self:
            return (self,)
        sub_ranges = []
        if port > self.low:
            sub_ranges.append(PortRange(self.low, port - 1))
        if port < self.high:
            sub_ranges.append(PortRange(port + 1, self.high))
        return tuple(sub_ranges)

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"


@dataclass(frozen=True, slots=True)
class PortSet:
    """A set of ports as sorted ranges that neither overlap nor touch; make one with :meth:`of` or :meth:`parse`."""

    ranges: tuple[PortRange, ...] = ()

    @classmethod
    def of(cls, items: Iterable[int | PortRange]) -> PortSet:
        """Collect ports and ranges of ports.

        Raises:
            ValueError: a port outside 0 to 65535.
        """
        merged: list[PortRange] = []
        together = (PortRange(item, item) if isinstance(item, int) else item for item in items)
        for item in sorted(together, key=lambda item: item.low):
            if merged and item.low <= merged[-1].high + 1:
                merged[-1] = PortRange(merged[-1].low, max(merged[-1].high, item.high))
            else:
                merged.append(item)
        return cls(tuple(merged))

    @classmethod
    def parse(cls, text: str) -> PortSet:
        """Read the kernel's list format: ``"1-3,8"``; blank text is the empty set.

        Raises:
            ValueError: something else than ports and LOW-HIGH ranges separated by commas.
        """
        items: list[int | PortRange] = []
        for part in text.split(","):
            part = part.strip()
            if part.isascii() and part.isdigit():
                items.append(int(part))
            elif part:
                items.append(PortRange.parse(part))
        return cls.of(items)

    def __contains__(self, port: int) -> bool:
        place = bisect_right(self.ranges, port, key=lambda item: item.low)
        return place > 0 and port <= self.ranges[place - 1].high

    def __len__(self) -> int:
        return sum(map(len, self.ranges))

    def __iter__(self) -> Iterator[int]:
        for item in self.ranges:
            yield from item

    def __or__(self, other: PortSet) -> PortSet:
        return PortSet.of((*self.ranges, *other.ranges))

    def __sub__(self, other: PortSet) -> PortSet:
        """Return the ports that are not in ``other``; one walk of both, which may have 32 768 ranges each."""
        left = []
        taken, place = other.ranges, 0
        for mine in self.ranges:
            low = mine.low
            while place < len(taken) and taken[place].low <= mine.high:
                if taken[place].low > low:
                    left.append(PortRange(low, taken[place].low - 1))
                low = max(low, taken[place].high + 1)
                if taken[place].high > mine.high:
                    break  # it may reach into the next of ours
                place += 1
            if low <= mine.high:
                left.append(PortRange(low, mine.high))
        return PortSet(tuple(left))

    def __and__(self, other: PortSet) -> PortSet:
        return self - (self - other)

    def __str__(self) -> str:
        return ",".join(str(item.low) if item.low == item.high else str(item) for item in self.ranges)


def shortened(text: str) -> str:
    """Return a list of ports, of which there may be 32 768, cut where it gets long."""
    return text if len(text) <= _LONGEST_LIST else f"{text[:_LONGEST_LIST].rpartition(',')[0]}, ..."
