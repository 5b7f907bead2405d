"""What keeps the destination port P from becoming the source port.

A self-connect needs the source port to be P (``docs/architecture.md``). :func:`plan` looks at what is known
before the attempt and chooses the cheapest means that makes that impossible:

====================================  ==============  ========================================================
what is known                         means           why it is enough
====================================  ==============  ========================================================
the socket is bound to another port   ``NOTHING``     the source port is settled, and it is not P
the socket is bound to P              ``CHECK``       the caller asked for it; only a look afterwards can tell
P is outside the ephemeral range      ``NOTHING``     the kernel draws source ports from the range only
the socket can have a range           ``STEER``       IP_LOCAL_PORT_RANGE (Linux 6.3) on a side without P
anything else                         ``BIND``        bind to port 0, look, and connect only when it is not P
====================================  ==============  ========================================================

Only ``CHECK`` is no guarantee: after it the four-tuple must be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from tailbite.core.address import same_host
from tailbite.core.sides import lower_share

if TYPE_CHECKING:
    from tailbite.core.address import Endpoint
    from tailbite.core.ports import PortRange

__all__ = ["HostFacts", "Means", "Plan", "plan", "would_be_self"]


class Means(Enum):
    """How P is kept from being the source port."""

    NOTHING = "nothing to do"
    STEER = "a port range on the socket that leaves P out"
    BIND = "bind first, and look at the port"
    CHECK = "compare the endpoints after the connect"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the plan must know of the host, or rather of the socket's network namespace.

    Attributes:
        ephemeral: the range source ports are drawn from; None if it could not be read.
        steerable: True if a socket can have a range of its own (IP_LOCAL_PORT_RANGE, Linux 6.3).
    """

    ephemeral: PortRange | None
    steerable: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """A means, and for ``STEER`` where the source port may come from.

    Attributes:
        means: how P is kept away.
        sides: what P leaves of the ephemeral range, the lower side first: one or two ranges.
        lower_share: how likely the lower side is to come first, 0 to 1 (:func:`tailbite.core.sides.lower_share`).
        is_certain: True if after this plan the connection cannot be to itself.
    """

    means: Means
    sides: tuple[PortRange, ...] = ()
    lower_share: float = 1.0
    is_certain: bool = True

    def order(self, draw: float) -> tuple[PortRange, ...]:
        """Return the sides in the order to try them; a connect that cannot be repeated uses the first.

        Args:
            draw: uniform in [0, 1).
        """
        return self.sides if draw < self.lower_share else self.sides[::-1]


_NOTHING = Plan(Means.NOTHING)
_BIND = Plan(Means.BIND)
_CHECK = Plan(Means.CHECK, is_certain=False)


def plan(port: int, bound_port: int, facts: HostFacts) -> Plan:
    """Choose what keeps a socket that will be connected to ``port`` from getting it as its source port.

    Args:
        port: the destination port.
        bound_port: the port the socket is bound to, 0 if the kernel is still to choose.
        facts: what is known of the socket's network namespace.
    """
    if bound_port:
        return _CHECK if bound_port == port else _NOTHING
    if facts.ephemeral is not None:
        if port not in facts.ephemeral:
            return _NOTHING
        if facts.steerable and (sides := facts.ephemeral.around(port)):
            return Plan(Means.STEER, sides, lower_share=lower_share(sides))
    # Either the range is unknown, or sockets cannot be steered, or the range consists of P alone: then the bind
    # fails with EADDRNOTAVAIL, and that is the truth.
    return _BIND


def would_be_self(source: Endpoint, destination: Endpoint) -> bool:
    """Tell whether a socket bound to ``source`` may become a self-connect when it is connected to ``destination``.

    A wildcard source takes whatever address the route gives, so it may; a wildcard destination is this host.
    """
    if not source.port or source.port != destination.port:
        return False
    return source.is_wildcard or destination.is_wildcard or same_host(source, destination)
