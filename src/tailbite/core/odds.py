"""The odds that a client which keeps dialling a dead port of this host connects to itself.

::

    >>> from tailbite.core.ports import PortRange
    >>> seen = odds(32774, PortRange(32768, 60999))
    >>> seen.is_possible, round(seen.between)
    (True, 14116)
    >>> print(seen.sentence(every=0.1).partition(" (")[0])
    a client that tries port 32774 every 100 ms connects to itself after 21 minutes on average
    >>> print(odds(32775, PortRange(32768, 60999)).sentence())
    cannot happen: connect() takes even ports from 32768-60999 while one is free, and 32775 is odd

The model is measured against the kernel (``tailbite lab loop``, ``docs/lab.md``). It assumes that other connections
of the host hold few ports, so that searches are short. Ports that are held for long belong in ``taken``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from tailbite.core.duration import spell_duration
from tailbite.core.laws import law_of
from tailbite.core.ports import PortSet
from tailbite.core.selection import Selection, circle_of

if TYPE_CHECKING:
    from tailbite.core.laws import Law
    from tailbite.core.ports import PortRange

__all__ = ["Obstacle", "Odds", "Selection", "odds"]

_FOR_EVER = 2**53
"""Number of attempts after which the distribution no longer changes."""


class Obstacle(Enum):
    """Reason why the kernel never chooses a port as source port."""

    OUTSIDE = "the port is outside the range"
    TAKEN = "the port is reserved or held"
    PARITY = "ports of the other parity come first"
    UNREACHED = "no search ends there"

    @property
    def label(self) -> str:
        """The name in JSON."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Odds:
    """Result of :func:`odds`. Attempts are counted from 1, by all clients of the sequence together.

    Attributes:
        port: the destination port that nobody listens on.
        ephemeral: the range that the kernel chooses source ports from.
        candidates: number of different source ports that this kind of client can get.
        binds_first: the client calls ``bind(address, 0)`` before ``connect()``.
        selection: the port selection of the system.
        obstacle: the reason why a self-connect cannot happen; None if it can.
        law: the distribution of attempts; None if a self-connect cannot happen.
    """

    port: int
    ephemeral: PortRange
    candidates: int
    binds_first: bool
    selection: Selection
    obstacle: Obstacle | None
    law: Law | None

    @property
    def is_possible(self) -> bool:
        """True if a self-connect can happen."""
        return self.law is not None

    @property
    def is_certain_at_once(self) -> bool:
        """True if the first attempt already connects to itself."""
        return self.probability(1) > 1 - 1e-9

    @property
    def mean(self) -> float:
        """Attempts until a self-connect, on average, counted from a moment at which the sequence is unknown."""
        return self.law.mean if self.law else math.inf

    @property
    def between(self) -> float:
        """Attempts from one self-connect to the next, on average."""
        return self.law.between if self.law else math.inf

    def probability(self, attempts: float) -> float:
        """Return the probability of a self-connect within this many attempts."""
        return 1.0 - self.law.survival(attempts) if self.law else 0.0

    def quantile(self, share: float) -> float:
        """Return the number of attempts that reach a self-connect with probability ``share``, 0 < share < 1.

        Raises:
            ValueError: ``share`` is not such a probability.
        """
        if not 0 < share < 1:
            raise ValueError(f"{share} is not a probability between 0 and 1")
        if self.law is None:
            return math.inf
        low, high = 0, 1
        while self.probability(high) < share:
            low, high = high, high * 2
            if high > _FOR_EVER:
                return math.inf
        while high - low > 1:
            middle = (low + high) // 2
            if self.probability(middle) < share:
                low = middle
            else:
                high = middle
        return float(high)

    def seconds(self, share: float | None = None, *, every: float = 1.0, clients: float = 1.0) -> float:
        """Return the seconds until a self-connect: on average, or with probability ``share``.

        Args:
            share: a probability between 0 and 1, or None for the mean.
            every: seconds between two attempts of one client.
            clients: how many clients dial the port from this address: they share the sequence, and any of them
                may be the one.
        """
        return (self.mean if share is None else self.quantile(share)) * every / clients

    def probability_within(self, seconds: float, *, every: float = 1.0, clients: float = 1.0) -> float:
        """Return the probability of a self-connect within this time; see :meth:`seconds`."""
        return self.probability(math.floor(seconds / every * clients + 1e-9))

    def sentence(self, *, every: float = 1.0, clients: int = 1) -> str:
        """Return one sentence for people, without a full stop."""
        if self.obstacle is not None:
            return f"cannot happen: {self._why_not()}"
        who = "a client that tries" if clients == 1 else f"one of {clients} clients that try"
        often = f"{who} port {self.port} every {spell_duration(every)}"
        if self.is_certain_at_once:
            return f"{often} connects to itself at the first attempt"
        early, mean, late = (
            spell_duration(self.seconds(share, every=every, clients=clients)) for share in (0.05, None, 0.95)
        )
        return f"{often} connects to itself after {mean} on average (5 %: {early}, 95 %: {late})"

    def _why_not(self) -> str:
        if self.obstacle is Obstacle.OUTSIDE:
            return f"{self.port} is outside the ephemeral range {self.ephemeral} of source ports"
        if self.obstacle is Obstacle.TAKEN:
            return f"{self.port} is reserved or held by another program, so it is never a source port"
        if self.obstacle is Obstacle.PARITY:
            call = "bind() to port 0" if self.binds_first else "connect()"
            mine, others = ("odd", "even") if self.port % 2 else ("even", "odd")
            return f"{call} takes {others} ports from {self.ephemeral} while one is free, and {self.port} is {mine}"
        return f"no search in {self.ephemeral} ends at {self.port}"


def odds(
    port: int,
    ephemeral: PortRange,
    taken: PortSet | None = None,
    *,
    binds_first: bool = False,
    reuse_address: bool = False,
    own_range: bool = False,
    selection: Selection = Selection.STRIDES,
    scatters: bool = False,
) -> Odds:
    """Return the odds that dialling ``port`` on this host, with nobody listening, ends as a self-connect.

    Args:
        port: the destination port.
        ephemeral: ``ip_local_port_range``, or what the socket's IP_LOCAL_PORT_RANGE leaves of it.
        taken: ports that are not chosen: ``ip_local_reserved_ports``, and ports held by the bind of a program.
        binds_first: the client calls ``bind(address, 0)`` before ``connect()``, without IP_BIND_ADDRESS_NO_PORT.
        reuse_address: a client that binds first sets SO_REUSEADDR before: the lower half of the range comes first.
        own_range: the socket has IP_LOCAL_PORT_RANGE, and so ``connect()`` uses both parities (Linux 6.8).
        selection: the port selection of the system.
        scatters: the namespace has ``ip_local_port_step_width``, see :func:`~tailbite.core.selection.circle_of`.
    """
    taken = taken or PortSet()
    circle = circle_of(
        ephemeral,
        taken,
        binds_first=binds_first,
        reuse_address=reuse_address,
        own_range=own_range,
        selection=selection,
        scatters=scatters,
    )
    law = None if circle is None else law_of(circle, port)
    candidates = set() if circle is None else set(circle.chosen)
    obstacle = None
    if law is None:
        if port not in ephemeral:
            obstacle = Obstacle.OUTSIDE
        elif port in taken:
            obstacle = Obstacle.TAKEN
        elif all((other - port) % 2 for other in candidates):
            obstacle = Obstacle.PARITY
        else:
            obstacle = Obstacle.UNREACHED
    return Odds(port, ephemeral, len(candidates), binds_first, selection, obstacle, law)
