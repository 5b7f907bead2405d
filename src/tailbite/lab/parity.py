"""Source ports that the kernel chooses at all, by the model and by the kernel, for each combination of conditions.

A range of sixteen ports makes the answer certain: a port that can be chosen is chosen within a few hundred attempts,
except with a probability of one in 10^12.
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

__all__ = ["ParityCell", "has_ipv6_loopback", "measure_cell", "parity_cells"]

_WIDTH = 16
_SURE = 1 - 1e-12
_AT_LEAST = 400


@dataclass(frozen=True, slots=True)
class ParityCell:
    """One combination of conditions, and its results.

    Attributes:
        ephemeral: a range of sixteen ports.
        port: the dead port in it.
        binds_first: the client binds to port 0 before it connects.
        ipv6: ::1 instead of 127.0.0.1.
        model: True if the model says that the client can connect to itself.
        attempts: number of connects.
        hits: number of self-connects.
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
        """True if kernel and model agree."""
        return self.model == (self.hits > 0)


def parity_cells(low: int = 40000, *, ipv6: bool = True) -> Iterator[ParityCell]:
    """Yield every combination of port parity, parity of the low end, kind of client, and address family.

    Args:
        low: the low end of the ranges, an even number.
        ipv6: False leaves IPv6 out.
    """
    choices = (False, True)
    for low_odd, port_odd, binds_first, is_ipv6 in itertools.product(*[choices] * 3, choices if ipv6 else (False,)):
        ephemeral = PortRange(low + low_odd, low + low_odd + _WIDTH - 1)
        port = low + _WIDTH // 2 + port_odd
        yield ParityCell(
            ephemeral, port, binds_first, is_ipv6, odds(port, ephemeral, binds_first=binds_first).is_possible
        )


def has_ipv6_loopback() -> bool:
    """Tell whether ::1 is an address of the calling thread's network namespace."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def measure_cell(cell: ParityCell) -> ParityCell:
    """Return the cell with the kernel's result, measured in the calling thread's network namespace.

    Raises:
        OSError: the range cannot be set, or a connect failed with another error than ECONNREFUSED.
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
    return ParityCell(cell.ephemeral, cell.port, cell.binds_first, cell.ipv6, cell.model, attempts, hits)
