"""The means that keep the destination port P from becoming the source port.

A self-connect needs the source port to be P (``docs/architecture.md``). :func:`plan` takes what is known before the
connect, and chooses the cheapest means:

====================================  ==============  =========================================================
what is known                         means           why it is enough
====================================  ==============  =========================================================
the socket is bound to another port   ``NOTHING``     the source port is settled, and it is not P
the socket is bound to P              ``CHECK``       the caller asked for it; the endpoints are compared after
P is outside the ephemeral range      ``NOTHING``     the kernel chooses source ports from that range only
the socket can have a range           ``STEER``       IP_LOCAL_PORT_RANGE, set to a sub-range without P
anything else                         ``RESET``       the endpoints are compared as soon as connect(2) returns,
                                                      and a self-connect is reset and reported as refused:
                                                      nobody listens on a port that the kernel can choose
====================================  ==============  =========================================================

``STEER`` and ``NOTHING`` rely on the range that was read a moment ago, so the connected socket's own port is compared
with P after them as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from tailbite.core.address import same_host
from tailbite.core.sub_ranges import lower_share, pack_port_range

if TYPE_CHECKING:
    from tailbite.core.address import Endpoint
    from tailbite.core.ports import PortRange

__all__ = ["HostFacts", "Means", "Plan", "plan", "would_be_self"]


class Means(Enum):
    """The means that keep a socket from being connected to itself."""

    NOTHING = "nothing to do"
    STEER = "a port range on the socket that leaves P out"
    RESET = "compare the endpoints at once, and reset a self-connect"
    BIND = "bind to another port first"
    CHECK = "compare the endpoints after the connect"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Facts about the socket's network namespace that the plan depends on.

    Attributes:
        ephemeral: the range that the kernel chooses source ports from; None if it could not be read.
        steerable: True if a socket can have a range of its own (IP_LOCAL_PORT_RANGE; Linux 6.3, and older kernels
            that have it backported).
    """

    ephemeral: PortRange | None
    steerable: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """A means, and for ``STEER`` where the source port may come from.

    Attributes:
        means: the means that keeps P away.
        sub_ranges: what P leaves of the ephemeral range, one or two ranges, the lower one first.
        lower_share: probability that the lower sub-range comes first, 0 to 1
            (:func:`tailbite.core.sub_ranges.lower_share`).
        options: the sub-ranges as values of IP_LOCAL_PORT_RANGE.
        is_certain: True if the connection cannot be to itself, provided that the range is what was read.
        has_other_port: False if P is the only port of the ephemeral range: then no source port is left.
    """

    means: Means
    sub_ranges: tuple[PortRange, ...] = ()
    lower_share: float = 1.0
    options: tuple[int, ...] = ()
    is_certain: bool = True
    has_other_port: bool = True

    def order(self, draw: float) -> tuple[PortRange, ...]:
        """Return the sub-ranges in the order to try them; a connect that cannot be repeated uses the first.

        Args:
            draw: uniform in [0, 1).
        """
        return self.sub_ranges if draw < self.lower_share else self.sub_ranges[::-1]


_NOTHING = Plan(Means.NOTHING)
_RESET = Plan(Means.RESET, is_certain=False)
_ONLY_PORT = Plan(Means.RESET, is_certain=False, has_other_port=False)
_CHECK = Plan(Means.CHECK, is_certain=False)


def plan(port: int, bound_port: int, facts: HostFacts) -> Plan:
    """Choose the means that keeps a socket from being connected to itself when it is connected to ``port``.

    Args:
        port: the destination port.
        bound_port: the port the socket is bound to, 0 if the kernel is still to choose.
        facts: the facts about the socket's network namespace.
    """
    if bound_port:
        return _CHECK if bound_port == port else _NOTHING
    if facts.ephemeral is None:
        return _RESET
    if port not in facts.ephemeral:
        return _NOTHING
    sub_ranges = facts.ephemeral.around(port)
    if not sub_ranges:
        return _ONLY_PORT
    if not facts.steerable:
        return _RESET
    options = tuple(pack_port_range(sub_range.low, sub_range.high) for sub_range in sub_ranges)
    return Plan(Means.STEER, sub_ranges, lower_share(sub_ranges), options)


def would_be_self(source: Endpoint, destination: Endpoint) -> bool:
    """Tell whether a socket bound to ``source`` may become a self-connect when it is connected to ``destination``.

    A wildcard source takes whatever address the route gives, so it may; a wildcard destination is this host.
    """
    if not source.port or source.port != destination.port:
        return False
    return source.is_wildcard or destination.is_wildcard or same_host(source, destination)
