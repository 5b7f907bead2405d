"""Wait until servers are ready, in asyncio; see :mod:`tailbite.readiness.sync`."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from tailbite.dial.aio import dial
from tailbite.dial.aio import verify as verify_line
from tailbite.dial.options import Options
from tailbite.kernel.sockopt import RESET_ON_CLOSE
from tailbite.readiness.gate import HOLD, Gate, describe_failure, listener_of, needs_reset, next_readiness
from tailbite.readiness.status import Readiness, TargetStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.dial.aio import Line
    from tailbite.readiness.target import Wanted
    from tailbite.reconnect.arguments import Address
    from tailbite.verifiers.verification import Verifier

__all__ = ["wait"]

_MOMENT = 0.02
_OPTIONS = Options()


async def wait(
    *targets: Address,
    verify: Verifier | None = None,
    timeout: float | None = 60.0,
    interval: float = 0.5,
    patience: float = 5.0,
    on_attempt: Callable[[Readiness], object] | None = None,
    **old: Any,
) -> tuple[Readiness, ...]:
    """Wait until every target is ready, all at once; never satisfied by a connection to itself.

    Cancellation ends it at once.

    Args:
        targets: each a ``"host:port"``, a URL whose scheme names the protocol (``postgres redis mysql ssh smtp http
            https tls tcp``), the path of a Unix socket, or a pair of host and port.
        verify: a verifier from :mod:`tailbite.verify` for the targets that do not name their protocol. None: a
            server that accepts the connection and holds it for 0.2 s is ready.
        timeout: seconds for everything, 60 if not given; None waits forever, 0 tries each target once.
        interval: seconds between two attempts on one target; 0.5 if not given.
        patience: seconds one attempt may take, for connecting and the answer; 5 if not given.
        on_attempt: a function that is called in the calling thread with the :class:`~tailbite.Readiness` after every
            attempt.
        old: ``on_sighting``, the old name of ``on_attempt``; deprecated.

    Returns:
        the readiness of each target, in their order; all of them are ready.

    Raises:
        NotReadyError: a :class:`TimeoutError`; its ``targets`` have the last readiness of each target.
        ValueError: a target that is not valid, or a time out of its range.
        TypeError: an argument of the wrong type, or an unknown keyword.
    """
    listener = listener_of(on_attempt, old)
    return await _wait(Gate.of(targets, verify, timeout, interval, patience), listener)


async def _wait(gate: Gate, listener: Callable[[Readiness], object] | None) -> tuple[Readiness, ...]:
    last = [Readiness(name) for name in gate.names]
    start = asyncio.get_running_loop().time()

    def report(number: int, readiness: Readiness) -> None:
        last[number] = readiness
        if listener is not None:
            listener(readiness)

    # With timeout=0 each target is tried once, and has its patience for that.
    try:
        async with asyncio.timeout(gate.timeout or None), asyncio.TaskGroup() as group:
            for number, wanted in enumerate(gate.wanted):
                group.create_task(_watch(gate, number, wanted, start, report))
    except TimeoutError:
        pass
    except ExceptionGroup as bugs:  # of the user's verifier or on_attempt
        raise bugs.exceptions[0] from None
    return gate.verdict(last)


async def _watch(
    gate: Gate, number: int, wanted: Wanted, start: float, report: Callable[[int, Readiness], None]
) -> None:
    loop = asyncio.get_running_loop()
    end = None if gate.timeout is None else start + gate.timeout
    readiness = Readiness(gate.names[number])
    while True:
        # A moment less than the time left: the outcome of the last attempt must be reported before the wait is over.
        limit = gate.limit(None if end is None else end - loop.time() - _MOMENT)
        status, detail = await _attempt(gate, wanted, limit)
        seconds = round(loop.time() - start, 3)
        readiness = next_readiness(readiness, status, detail, seconds, hurried=limit < gate.patience)
        report(number, readiness)
        pause = gate.pause(None if end is None else end - loop.time() - _MOMENT)
        if readiness.ready or pause is None:
            return
        await asyncio.sleep(pause)


async def _attempt(gate: Gate, wanted: Wanted, seconds: float) -> tuple[TargetStatus, str]:
    """Connect to a target once, and ask it."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    try:
        line = await dial(wanted.target, _OPTIONS, seconds)
        try:
            left = max(until - loop.time(), 0.01)
            if wanted.verifier is not None:
                await verify_line(line, wanted.verifier, wanted.target, min(left, wanted.verifier.timeout))
            elif not await _is_held(line, min(left, HOLD)):
                return TargetStatus.CLOSED, ""
        finally:
            if needs_reset(line.transport.get_extra_info("sockname"), gate.ports):
                sock = line.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            line.transport.abort()
            await asyncio.sleep(0)  # the transport closes its socket in the loop's next round
    except (OSError, UnicodeError) as error:
        return describe_failure(error, wanted.target)
    return TargetStatus.READY, ""


async def _is_held(line: Line, seconds: float) -> bool:
    """Tell whether the peer keeps the connection open for a while, or sends something."""
    try:
        async with asyncio.timeout(seconds):
            return await line.receive(1) != b""
    except TimeoutError:
        return True
