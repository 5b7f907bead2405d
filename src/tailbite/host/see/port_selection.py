"""The running kernel's way to choose source ports, measured with refused connects to a port of our own.

The release number does not tell it: the stride commit ca7af0402550 (Linux 5.18) was taken into stable kernels of
2022, so Debian's 5.10.46 and 5.10.262 differ while ``uname -r`` is 5.10.0 for both. Where
``ip_local_port_step_width`` is set, a search that meets a taken port continues at a random distance.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from tailbite.core.selection import Selection
from tailbite.host.see.abilities import port_selection
from tailbite.kernel.sysctl import read_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.core.ports import PortRange

__all__ = ["SelectionEvidence", "classify_ports", "running_selection"]

CONNECTS = 48
"""With random strides, 36 equal ones among 47 have a chance below 1e-20: that many cannot be mistaken."""

FEWEST_SLOTS = 128
"""In a smaller range strides of 2 to 16 and independent choices look alike."""

FEWEST_SHORT = 12
"""Short steps of one parity that tell random strides from steps of two: twelve of which half differ."""

_MOST_ALIKE = 0.75
_LONGEST_STRIDE = 16
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class SelectionEvidence:
    """A way to choose source ports, and the reason to believe that the kernel has it.

    Attributes:
        selection: the way.
        is_measured: it was seen; otherwise it is assumed from the kernel's release.
        reason: the measurement, or the reason why nothing was measured, as a phrase.
    """

    selection: Selection
    is_measured: bool
    reason: str

    def sentence(self) -> str:
        """Return one sentence for people."""
        verb = "measured" if self.is_measured else "assumed"
        return f"Source ports are chosen as by {self.selection.value} ({verb}: {self.reason})."


@cache
def running_selection() -> SelectionEvidence:
    """Measure how ``connect()`` chooses source ports in the calling thread's network namespace, once per process.

    It makes 48 connects to a loopback port that it holds itself and does not listen on: each is refused, none can
    connect to itself, and no source port stays in use.
    """
    try:
        ephemeral = read_ephemeral_range()
        selection = classify_ports(_chosen_ports(CONNECTS), ephemeral)
    except OSError as error:
        return _assumed(f"the measurement failed, {error.strerror or error}")
    except ValueError:
        return _assumed("the ephemeral range cannot be read")
    if selection is None:
        return _assumed(f"the ephemeral range {ephemeral} is too small or too full to tell")
    return SelectionEvidence(selection, True, f"{CONNECTS} connects to a port of our own")


def classify_ports(ports: Sequence[int], ephemeral: PortRange) -> Selection | None:
    """Return the way that source ports of successive connects to one destination were chosen.

    Args:
        ports: in the order of the connects.
        ephemeral: the range they were chosen from.

    Returns:
        None if the ports do not tell: too few, or too small a range.
    """
    size = len(ephemeral) & ~1  # connect() rounds an odd number of ports down (__inet_hash_connect)
    if len(ports) < CONNECTS // 2 or size < FEWEST_SLOTS:
        return None
    steps = Counter((after - before) % size for before, after in pairwise(ports))
    total = sum(steps.values())
    if steps[1] >= _MOST_ALIKE * total:
        return Selection.ONE_BY_ONE
    if steps[2] >= _MOST_ALIKE * total:
        return Selection.BY_TWO
    short = sum(count for step, count in steps.items() if step % 2 == 0 and 0 < step <= _LONGEST_STRIDE)
    if short >= _MOST_ALIKE * total:
        return Selection.STRIDES
    if len({port % 2 for port in ports}) == 1:  # random ones would have both parities: Linux, and many ports taken
        is_mixed = max(steps[step] for step in range(2, _LONGEST_STRIDE + 1, 2)) <= short / 2
        return Selection.STRIDES if is_mixed and short >= FEWEST_SHORT else None
    # A port in use lengthens a step. Where that happens at most steps, the answer is unknown.
    near = sum(count for step, count in steps.items() if step <= 4 * _LONGEST_STRIDE)
    return None if near >= _MOST_ALIKE * total else Selection.RANDOM


def _assumed(reason: str) -> SelectionEvidence:
    return SelectionEvidence(port_selection(), False, f"by the kernel's release, {reason}")


def _chosen_ports(count: int) -> list[int]:
    """Return the source ports of refused connects; getsockname(2) names the port after ECONNREFUSED too."""
    ports = []
    with socket.socket() as held:
        held.bind((_HOST, 0))
        for _ in range(count):
            with socket.socket() as sock:
                with contextlib.suppress(ConnectionRefusedError):
                    sock.connect(held.getsockname())
                ports.append(sock.getsockname()[1])
    return ports
