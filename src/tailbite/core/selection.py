"""The port allocators of systems: source ports that a connection can get, as far as they can be predicted.

Linux has two allocators, and both walk over ports of one parity first.

``connect()`` without ``bind`` (``__inet_hash_connect``, net/ipv4/inet_hashtables.c) starts at an offset that RFC 6056
calls double-hash: a keyed hash of source address, destination address and destination port, plus an entry of a table
of increments. From there it walks over the ports with the parity of the range's *low* end, wraps around once, and
takes the other parity when none of those is free. Afterwards the entry moves on by the ports that were skipped, or by
a random multiple of two below sixteen if that is more, plus two (commit ca7af0402550, Linux 5.18 and the stable
kernels of 2022). So the searches for one destination start along a walk around the range in random strides, and all
clients that dial this destination from this address share the walk.

``bind(address, 0)`` (``inet_csk_find_open_port``, net/ipv4/inet_connection_sock.c) starts at a random place, each
time afresh, on the *other* parity, to leave connect() its own; with SO_REUSEADDR it searches the lower half of the
range first.

Both round an odd number of ports down to even, so the last port of such a range is reached only past a port that is
taken. Positions on the walk are called slots here; :mod:`tailbite.core.laws` has the number of attempts until a hit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

from tailbite.core.ports import PortRange, PortSet

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Circle", "Selection", "circle_of"]


class Selection(Enum):
    """Port selection of a system for ``connect()``."""

    STRIDES = "Linux since 5.18"
    """Every second port, in random strides of 2 to 16 (ca7af0402550; also in the stable kernels since mid-2022)."""
    BY_TWO = "Linux 4.2 to 5.17"
    """Every second port, one after the other (07f4c90062f8). From 5.12 on 1 in 16 is left out: not modelled.

    Before 5.12 one counter serves all destinations of the host, so each connect of another program moves it as well.
    """
    ONE_BY_ONE = "Linux before 4.2"
    """Every port, one after the other, with one counter for the whole host."""
    RANDOM = "systems that choose at random"
    """Any port of the range, each time afresh (RFC 6056 algorithm 1): macOS and the BSDs."""

    @property
    def strides(self) -> int:
        """Number of equally likely strides, 1 to this number of slots; 0 if each choice is independent."""
        return {"STRIDES": 8, "RANDOM": 0}.get(self.name, 1)

    @property
    def is_shared(self) -> bool:
        """True if connects to other destinations may move the same counter (on Linux before 5.12 they do)."""
        return self in (Selection.BY_TWO, Selection.ONE_BY_ONE)

    @property
    def label(self) -> str:
        """The name on the command line and in JSON."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Circle:
    """Slots that a search can start from, and the ports where it ends.

    Attributes:
        chosen: for each slot, the port that a search starting there ends at.
        skipped: for each slot, how many taken ports that search passes.
        strides: see :attr:`Selection.strides`.
    """

    chosen: tuple[int, ...]
    skipped: tuple[int, ...]
    strides: int

    def __len__(self) -> int:
        return len(self.chosen)

    def landings(self, port: int) -> tuple[int, ...]:
        """Return the slots from which a search ends at ``port``."""
        return tuple(slot for slot, found in enumerate(self.chosen) if found == port)


@lru_cache(maxsize=8)  # many ports are asked about one range; a circle is some 200 KB
def circle_of(
    ephemeral: PortRange,
    taken: PortSet,
    *,
    binds_first: bool = False,
    reuse_address: bool = False,
    own_range: bool = False,
    selection: Selection = Selection.STRIDES,
    scatters: bool = False,
) -> Circle | None:
    """Return the slots of one kind of client, or None if a search from some slot finds no free port.

    Args:
        ephemeral: ``ip_local_port_range``, or what the socket's IP_LOCAL_PORT_RANGE leaves of it.
        taken: ports that cannot be chosen: ``ip_local_reserved_ports``, ports held by the bind of a program.
        binds_first: the client calls ``bind(address, 0)`` before ``connect()``.
        reuse_address: a client that binds first sets SO_REUSEADDR before.
        own_range: the socket has IP_LOCAL_PORT_RANGE, so ``connect()`` uses both parities (Linux 6.8).
        selection: the port selection of the system.
        scatters: the namespace has ``ip_local_port_step_width``: a search of ``connect()`` that meets a taken port
            continues at a random distance, so the ports behind taken ones are not chosen more often. It changes
            nothing without taken ports, nor for ``bind()`` to port 0 (both measured on Linux 7.2). The model assumes
            that such a search ends at every free port alike: the walk is that of a range without the taken ports.
    """
    strides = 0 if binds_first else selection.strides
    for scans in _passes(ephemeral, binds_first, reuse_address, own_range, selection):
        ends: list[tuple[int, int] | None] = []
        for scan in scans:
            found = scan.walk(taken, scatters=scatters and not binds_first)
            ends = (
                [end or other for end, other in zip(ends, found, strict=True)] if len(ends) == len(found) else found
            )
            if all(ends):
                break
        done = [end for end in ends if end is not None]
        if len(done) == len(ends):
            return Circle(tuple(end[0] for end in done), tuple(end[1] for end in done), strides)
    return None


def _passes(
    ephemeral: PortRange, binds_first: bool, reuse_address: bool, own_range: bool, selection: Selection
) -> Iterator[tuple[_Scan, ...]]:
    """Yield the passes of the allocator until a port is free: parts of the range, by parity."""
    parted = selection in (Selection.STRIDES, Selection.BY_TWO)
    if not parted or (own_range and not binds_first):
        yield (_Scan(ephemeral, 1, 0),)
        return
    parts = [ephemeral]
    if binds_first and reuse_address and len(ephemeral) >= 4:
        middle = ephemeral.low + (len(ephemeral) >> 2 << 1)
        parts = [PortRange(ephemeral.low, middle - 1), PortRange(middle, ephemeral.high)]
    for part in parts:
        if len(part) == 1:
            yield (_Scan(part, 2, 0),)
        else:
            yield (_Scan(part, 2, int(binds_first)), _Scan(part, 2, int(not binds_first)))


@dataclass(frozen=True, slots=True)
class _Scan:
    """One pass over the ports ``low + first``, ``low + first + step``, ..."""

    ports: PortRange
    step: int
    first: int

    def walk(self, taken: PortSet, *, scatters: bool = False) -> list[tuple[int, int] | None]:
        """Return for each slot the port a search from there ends at and the taken ones before it; None if at none."""
        start = self.ports.low + self.first
        slots = max(1, len(self.ports) // self.step)
        places = [start + self.step * slot for slot in range(slots)]
        if start + self.step * slots <= self.ports.high:
            places.append(start + self.step * slots)  # past the rounded-down end: walked to, never started from
        blocked = set(taken & PortSet((self.ports,)))
        if not blocked:
            return [(port, 0) for port in places[:slots]]
        if scatters and (free := [port for port in places[:slots] if port not in blocked]):
            return [(port, 0) for port in free]
        # Where the walk goes from each place. From the extra one it wraps to the second slot, for the kernel takes
        # the rounded number of ports off.
        after = [*range(1, len(places)), 1 % len(places) if len(places) > slots else 0]
        ends: list[tuple[int, int] | None] = [None] * len(places)
        for _ in range(2):  # the second time around, the first slots' ends are known to the last ones
            for place in reversed(range(len(places))):
                if places[place] not in blocked:
                    ends[place] = (places[place], 0)
                elif (onward := ends[after[place]]) is not None:
                    ends[place] = (onward[0], onward[1] + 1)
        return [end if end is not None and end[1] < slots else None for end in ends[:slots]]
