"""The source port of a steered connect: the one rule that the library, ``guard()`` and ``tailbite run`` apply.

The destination port P divides the ephemeral range into two *sub-ranges*, the ports below P and the ports above P.
Neither contains P, so a socket whose port range is one of them cannot get P as its source port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tailbite.core.ports import PortRange

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["effective_range", "lower_share", "pack_port_range"]

_FEW: Final = 64
_TIMES: Final = 16


def pack_port_range(low: int, high: int) -> int:
    """Return IP_LOCAL_PORT_RANGE's value, ``low | high << 16``, as the *signed* C int that Python's setsockopt takes.

    From port 32768 on the high half sets the sign bit, and Python refuses integers that a C int cannot hold. A test
    that stays below port 32768 never meets this.
    """
    value = low | high << 16
    return value if value < 1 << 31 else value - (1 << 32)


def effective_range(ephemeral: PortRange, own: int) -> PortRange:
    """Return the range that the kernel chooses a socket's source port from.

    A bound of the socket's own range that is 0 or outside the ephemeral range is ignored, each by itself
    (inet_sk_get_local_port_range, Linux 6.18). The two bounds that remain cannot cross: setsockopt(2) refuses
    ``low > high`` with EINVAL.

    Args:
        ephemeral: the ephemeral range of the socket's network namespace.
        own: the socket's IP_LOCAL_PORT_RANGE, ``low | high << 16``; 0 is a bound that is not set.
    """
    low, high = own & 0xFFFF, own >> 16 & 0xFFFF
    return PortRange(low if low in ephemeral else ephemeral.low, high if high in ephemeral else ephemeral.high)


def lower_share(sub_ranges: Sequence[PortRange]) -> float:
    """Return the probability with which a connect uses the lower sub-range, 0 to 1.

    The share is the lower sub-range's part of all ports but P, so every port but P stays as likely as it was. Always
    using the larger sub-range would halve the source ports of a busy client of, for example, port 46884.

    The ports of a small sub-range are soon in use. Then a program whose connect cannot be repeated in the other
    sub-range would get EADDRNOTAVAIL, although that one has many ports left. So a sub-range of fewer than 64 ports is
    left out if the other has at least 16 times as many. This costs less than a sixteenth of the source ports.

    Args:
        sub_ranges: one or two sub-ranges, the lower one first.
    """
    lower, upper = len(sub_ranges[0]), len(sub_ranges[-1])
    if len(sub_ranges) == 1 or (upper < _FEW and lower >= _TIMES * upper):
        return 1.0
    if lower < _FEW and upper >= _TIMES * lower:
        return 0.0
    return lower / (lower + upper)
