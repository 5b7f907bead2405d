"""Programs for the filter of sock_diag: "both ports in the same interval", which drops nearly every other socket.

The kernel can filter a dump with a small bytecode (INET_DIAG_REQ_BYTECODE, linux/inet_diag.h). It compares a port
with a constant; it cannot compare the two ports with each other. But equal ports lie in the same interval of *any*
partition of the port space, so a program that accepts exactly the sockets whose two ports share an interval accepts
every self-connect, wherever the partition is cut: inside or outside the ephemeral range, IPv4, IPv6, TIME-WAIT. The
cuts affect the speed alone. The kernel chose one port of an ordinary connection from the ephemeral range: cut that
range into 64 pieces, and one socket in 64 comes through when its other port lies in the range too, none otherwise.

The kernel reads a program like this (net/ipv4/inet_diag.c, inet_diag_bc_run)::

    operation     4 bytes: code, yes, no       comparisons are followed by 4 more that hold the port
    comparison    true: go ``yes`` bytes on; false: go ``no`` bytes on
    jump          always goes ``no`` bytes on
    end           reaching it exactly accepts the socket; 4 bytes past it rejects

and refuses any other shape with EINVAL (inet_diag_bc_audit): jumps go forward only; every operation lies on the
chain that following ``yes`` from the start makes, and a ``no`` leads to one of that chain, to the end, or 4 past it.
So all operations stand in a row, ``yes`` is an operation's own size, and the program is the row of a decision tree:
the source port is compared with the middle cut, the upper half follows, the lower half is jumped to. A leaf compares
the destination port with its interval's two ends.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from tailbite.core.ports import HIGHEST_PORT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.core.ports import PortRange

__all__ = ["PIECES", "cuts", "local_port_is", "same_interval"]

JMP, S_GE, S_LE, D_GE, D_LE = 1, 2, 3, 4, 5  # INET_DIAG_BC_*

PIECES: Final = 64
"""Pieces of the ephemeral range. 500 000 sockets whose both ports lie in it: 0.44 s with 1 piece, 0.16 s with 8,
0.12 s with 32 to 128, 0.16 s with 256 and more (``bench/scan.py --pieces``)."""

_JUMP = struct.Struct("=BBH")  # struct inet_diag_bc_op: code, yes, no
_COMPARE = struct.Struct("=BBHHH")  # the same, then another whose ``no`` holds the port
_ACCEPT, _REJECT = "accept", "reject"


def cuts(ephemeral: PortRange | None, pieces: int = PIECES) -> tuple[int, ...]:
    """Return the first ports of the intervals, ascending from 0: below, ``pieces`` times inside, and above the range.

    Without a known range the whole port space is cut. Any partition finds every self-connect.
    """
    low, end = (ephemeral.low, ephemeral.high + 1) if ephemeral else (0, HIGHEST_PORT + 1)
    starts = {0, *(low + (end - low) * piece // pieces for piece in range(pieces + 1))}
    return tuple(sorted(start for start in starts if start <= HIGHEST_PORT))


def same_interval(starts: Sequence[int]) -> bytes:
    """Return the program that accepts the sockets whose two ports lie in the same interval.

    Args:
        starts: the intervals' first ports, ascending, the first one 0.
    """
    program = _Program()

    def tree(first: int, last: int) -> None:
        if first == last:
            low = starts[first]
            high = starts[first + 1] - 1 if first + 1 < len(starts) else HIGHEST_PORT
            if low > 0:
                program.compare(D_GE, low, _REJECT)
            if high < HIGHEST_PORT:
                program.compare(D_LE, high, _REJECT)
            program.jump(_ACCEPT)
            return
        middle = (first + last + 1) // 2
        branch = program.compare(S_GE, starts[middle])
        tree(middle, last)
        program.lead(branch)
        tree(first, middle - 1)

    tree(0, len(starts) - 1)
    return program.finish()


def local_port_is(port: int) -> bytes:
    """Return the program that accepts the sockets on this local port.

    The request's own ``idiag_sport`` would do for listeners and connections, but the kernel ignores it when it lists
    sockets that are only bound.
    """
    program = _Program()
    program.compare(S_GE, port, _REJECT)
    program.compare(S_LE, port, _REJECT)
    return program.finish()


class _Program:
    """Operations in a row, with the targets of their ``no`` filled in at the end."""

    def __init__(self) -> None:
        self._code = bytearray()
        self._targets: dict[int, int | str] = {}

    def compare(self, code: int, port: int, otherwise: int | str = 0) -> int:
        """Append a comparison and return its place."""
        return self._append(_COMPARE.pack(code, _COMPARE.size, 0, 0, port), otherwise)

    def jump(self, target: str) -> int:
        """Append a jump and return its place."""
        return self._append(_JUMP.pack(JMP, _JUMP.size, 0), target)

    def lead(self, place: int) -> None:
        """Have the ``no`` of the operation at ``place`` lead to here."""
        self._targets[place] = len(self._code)

    def finish(self) -> bytes:
        """Fill in the targets and return the program."""
        end = len(self._code)
        for place, target in self._targets.items():
            where = {_ACCEPT: end, _REJECT: end + 4}[target] if isinstance(target, str) else target
            struct.pack_into("=H", self._code, place + 2, where - place)
        return bytes(self._code)

    def _append(self, operation: bytes, target: int | str) -> int:
        place = len(self._code)
        self._code += operation
        self._targets[place] = target
        return place
