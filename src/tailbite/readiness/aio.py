"""Wait until servers are there, in asyncio; see :mod:`tailbite.readiness.sync`."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from tailbite.dial.aio import dial
from tailbite.dial.aio import verify as verify_line
from tailbite.dial.options import Options
from tailbite.kernel.sockopt import RESET_ON_CLOSE
from tailbite.readiness.gate import Gate, needs_reset, next_sighting
from tailbite.readiness.sighting import Saw, Sighting, judge

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.readiness.target import Wanted
    from tailbite.verifiers.verification import Verifier

__all__ = ["wait"]

_MOMENT = 0.02
_OPTIONS = Options()


async def wait(
    *targets: Any,
    verify: Verifier | None = None,
    timeout: float | None = 60.0,
    interval: float = 0.5,
    patience: float = 5.0,
    on_sighting: Callable[[Sighting], object] | None = None,
) -> tuple[Sighting, ...]:
    """Wait until every target is there, all at once; arguments, result and errors are those of :func:`tailbite.wait`.

    Cancelling it ends it at once.
    """
    gate = Gate.of(targets, verify, timeout, interval, patience)
    seen = [Sighting(str(wanted)) for wanted in gate.wanted]
    start = asyncio.get_running_loop().time()

    def report(number: int, sighting: Sighting) -> None:
        seen[number] = sighting
        if on_sighting is not None:
            on_sighting(sighting)

    # With timeout=0 each target is tried once, and has its patience for that.
    try:
        async with asyncio.timeout(timeout or None), asyncio.TaskGroup() as group:
            for number, wanted in enumerate(gate.wanted):
                group.create_task(_watch(gate, number, wanted, start, report))
    except TimeoutError:
        pass
    except ExceptionGroup as bugs:  # of the user's verifier or on_sighting
        raise bugs.exceptions[0] from None
    return gate.verdict(seen)


async def _watch(
    gate: Gate, number: int, wanted: Wanted, start: float, report: Callable[[int, Sighting], None]
) -> None:
    loop = asyncio.get_running_loop()
    end = None if gate.timeout is None else start + gate.timeout
    sighting = Sighting(str(wanted))
    while True:
        # A moment less than what is left: what the last attempt saw shall be told before the wait is over.
        limit = gate.limit(None if end is None else end - loop.time() - _MOMENT)
        saw, detail = await _look(gate, wanted, limit)
        seconds = round(loop.time() - start, 3)
        sighting = next_sighting(sighting, saw, detail, seconds, hurried=limit < gate.patience)
        report(number, sighting)
        pause = gate.pause(None if end is None else end - loop.time() - _MOMENT)
        if sighting.ready or pause is None:
            return
        await asyncio.sleep(pause)


async def _look(gate: Gate, wanted: Wanted, seconds: float) -> tuple[Saw, str]:
    """Try once."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    try:
        line = await dial(wanted.target, _OPTIONS, seconds)
        try:
            if wanted.verifier is not None:
                left = max(until - loop.time(), 0.01)
                await verify_line(line, wanted.verifier, wanted.target, min(left, wanted.verifier.timeout))
        finally:
            if needs_reset(line.transport.get_extra_info("sockname"), gate.ports):
                sock = line.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            line.transport.abort()
            await asyncio.sleep(0)  # the transport closes its socket in the loop's next round
    except (OSError, UnicodeError) as error:
        return judge(error)
    return Saw.READY, ""
