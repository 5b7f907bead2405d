"""Cost of a strategy per connect, beside the naive strategy, to a listening server on loopback.

Blocks of both alternate, so that a change in the machine's speed affects both alike. The ratio is the median of the
ratios of neighbouring blocks.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from tailbite.kernel.sockopt import abort
from tailbite.lab.strategies import STRATEGIES, STRATEGY_HOST, Strategy

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["Cost", "measure_cost"]

_PORT = 46884
_BLOCK = 150


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one connect.

    Attributes:
        strategy: the strategy's name.
        naive_us: median of the naive strategy, microseconds.
        own_us: median of this strategy, microseconds.
        ratio: median of the ratios of neighbouring blocks.
        low: first quartile of those ratios.
        high: third quartile of those ratios.
    """

    strategy: str
    naive_us: float
    own_us: float
    ratio: float
    low: float
    high: float


def measure_cost(strategy: Strategy, *, blocks: int) -> Cost:
    """Measure in the calling thread's network namespace, which must be private and have the default range."""
    naive = STRATEGIES[0]
    pairs = []
    with socket.create_server((STRATEGY_HOST, _PORT), backlog=64) as server:
        for number in range(blocks + 1):
            order = (naive, strategy) if number % 2 else (strategy, naive)
            spent = {}
            for position, each in enumerate(order):
                preparation: AbstractContextManager[None] = (
                    strategy.prepare(_PORT) if each is strategy else contextlib.nullcontext()
                )
                with preparation:
                    # The position keeps both apart when the naive strategy is compared with itself.
                    spent[each.name, position] = _block(each, server)
            first, second = spent.values()
            pairs.append((first, second) if number % 2 else (second, first))
    pairs = pairs[1:]  # the first warms up
    ratios = [own / plain for plain, own in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Cost(
        strategy=strategy.name,
        naive_us=round(statistics.median(plain for plain, _ in pairs) * 1e6, 2),
        own_us=round(statistics.median(own for _, own in pairs) * 1e6, 2),
        ratio=round(middle, 3),
        low=round(low, 3),
        high=round(high, 3),
    )


def _block(strategy: Strategy, server: socket.socket) -> float:
    """Return the median seconds of one connect; accepting and closing happen outside the measured time."""
    dial, spent = strategy.dial, []
    for _ in range(_BLOCK):
        began = perf_counter()
        client = dial(_PORT, _nothing)
        spent.append(perf_counter() - began)
        accepted = server.accept()[0]
        if client is not None:
            abort(client)
        accepted.close()
    return statistics.median(spent)


def _nothing() -> None: ...
