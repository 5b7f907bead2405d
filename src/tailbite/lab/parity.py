"""Which ports are drawn at all: each combination of what matters, by the model and by the kernel.

A range of sixteen ports makes the answer certain: a port that can be drawn is drawn within a few hundred attempts,
but for a chance of one in a million million.
"""

from __future__ import annotations

import errno
import itertools
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.core.odds import odds
from tailbite.core.ports import PortRange
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Cell", "cells", "measure"]

_WIDTH = 16
_SURE = 1 - 1e-12
_AT_LEAST = 400


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination.

    Attributes:
        ephemeral: a range of sixteen ports.
        port: the dead port in it.
        binds_first: the client binds to port 0 before it connects.
        ipv6: ::1 instead of 127.0.0.1.
        model: whether the model says that it connects to itself.
        attempts: connects made.
        hits: how many connected to themselves.
    """

    ephemeral: PortRange
    port: int
    binds_first: bool
    ipv6: bool
    model: bool
    attempts: int = 0
    hits: int = 0

    @property
    def agrees(self) -> bool:
        """True if the kernel did what the model says."""
        return self.model == (self.hits > 0)


def cells(low: int = 40000) -> Iterator[Cell]:
    """Yield every combination of port parity, parity of the low end, kind of client, and address family."""
    for low_odd, port_odd, binds_first, ipv6 in itertools.product((False, True), repeat=4):
        ephemeral = PortRange(low + low_odd, low + low_odd + _WIDTH - 1)
        port = low + _WIDTH // 2 + port_odd
        yield Cell(ephemeral, port, binds_first, ipv6, odds(port, ephemeral, binds_first=binds_first).is_possible)


def measure(cell: Cell) -> Cell:
    """Return the cell with what the kernel did, in the calling thread's network namespace.

    Raises:
        OSError: the range cannot be set, or a connect failed otherwise than refused.
    """
    model = odds(cell.port, cell.ephemeral, binds_first=cell.binds_first)
    attempts = max(_AT_LEAST, int(model.quantile(_SURE))) if cell.model else _AT_LEAST
    write_ephemeral_range(cell.ephemeral)
    family, host = (socket.AF_INET6, "::1") if cell.ipv6 else (socket.AF_INET, "127.0.0.1")
    hits = 0
    for _ in range(attempts):
        sock = socket.socket(family)
        try:
            if cell.binds_first:
                sock.bind((host, 0))
            result = sock.connect_ex((host, cell.port))
            if result == 0:
                hits += sock.getsockname() == sock.getpeername()
            elif result != errno.ECONNREFUSED:
                raise OSError(result, f"connect to {host}: {errno.errorcode.get(result, result)}")
        finally:
            abort(sock)
    return Cell(cell.ephemeral, cell.port, cell.binds_first, cell.ipv6, cell.model, attempts, hits)
