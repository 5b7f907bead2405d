"""Wait until servers are there: the readiness gate that cannot satisfy itself.

The usual gates (``nc -z``, a shell's ``/dev/tcp``, and the scripts around them) connect to the dead port until that
succeeds, and in the ephemeral range one day it does: to themselves. Then they open, and what they leave, TIME-WAIT
on the server's port, keeps the very server from starting that they were waiting for.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tailbite.dial.options import Options
from tailbite.dial.sync import dial
from tailbite.dial.verify_sync import verify as verify_socket
from tailbite.dial.waiter import Interrupted, Waiter
from tailbite.readiness.gate import Gate, hang_up, next_sighting
from tailbite.readiness.sighting import Saw, Sighting, judge

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.readiness.target import Wanted
    from tailbite.verifiers.verification import Verifier

__all__ = ["wait"]

_GRACE = 0.25
"""Seconds after the end for those who are about to say what they saw last."""

_OPTIONS = Options()


def wait(
    *targets: Any,
    verify: Verifier | None = None,
    timeout: float | None = 60.0,
    interval: float = 0.5,
    patience: float = 5.0,
    on_sighting: Callable[[Sighting], object] | None = None,
) -> tuple[Sighting, ...]:
    """Wait until every target is there, all at once; never satisfied by a connection to itself.

    Args:
        targets: each a ``"host:port"``, a URL whose scheme says the protocol (``postgres redis mysql ssh smtp http
            https tls tcp``), the path of a Unix socket, or ``(host, port)``.
        verify: how to know the targets that do not say their protocol: see :mod:`tailbite.verify`. None: whoever
            accepts the connection is the server.
        timeout: seconds for everything; None waits for ever, 0 tries each target once.
        interval: seconds between two attempts on one target.
        patience: seconds one attempt may take, connecting and answering.
        on_sighting: called in the calling thread with what every attempt saw.

    Returns:
        what was seen of each target, in their order; all of them are ready.

    Raises:
        NotReadyError: a :class:`TimeoutError`; its ``sightings`` say of each target what was seen last.
        ValueError: a target that cannot be read, or times that make no sense.
    """
    gate = Gate.of(targets, verify, timeout, interval, patience)
    return gate.verdict(_watch(gate, on_sighting))


def _watch(gate: Gate, on_sighting: Callable[[Sighting], object] | None) -> list[Sighting]:
    start = time.monotonic()
    end = None if gate.timeout is None else start + gate.timeout
    reports: queue.SimpleQueue[tuple[int, Sighting | BaseException | None]] = queue.SimpleQueue()
    seen = [Sighting(str(wanted)) for wanted in gate.wanted]
    waiters = [Waiter() for _ in seen]
    watching = len(seen)
    last = None if end is None else end + (_GRACE if gate.timeout else gate.patience + _GRACE)
    try:
        for number, waiter in enumerate(waiters):
            threading.Thread(target=_watch_one, args=(gate, number, start, end, waiter, reports), daemon=True).start()
        while watching:
            try:
                number, report = reports.get(timeout=None if last is None else max(last - time.monotonic(), 0))
            except queue.Empty:
                break
            if report is None:
                watching -= 1
            elif isinstance(report, BaseException):
                raise report
            else:
                seen[number] = report
                if on_sighting is not None:
                    on_sighting(report)
    finally:
        for waiter in waiters:
            waiter.interrupt()
    return seen


def _watch_one(
    gate: Gate,
    number: int,
    start: float,
    end: float | None,
    waiter: Waiter,
    reports: queue.SimpleQueue[tuple[int, Sighting | BaseException | None]],
) -> None:
    wanted = gate.wanted[number]
    sighting = Sighting(str(wanted))
    try:
        with waiter.armed():
            while True:
                limit = gate.limit(None if end is None else end - time.monotonic())
                saw, detail = _look(gate, wanted, limit, waiter)
                now = time.monotonic()
                sighting = next_sighting(sighting, saw, detail, round(now - start, 3), hurried=limit < gate.patience)
                reports.put((number, sighting))
                pause = gate.pause(None if end is None else end - now)
                if sighting.ready or pause is None:
                    break
                _sleep(pause, waiter)
    except Interrupted:
        pass
    except OSError as error:  # no descriptors left to wait with
        saw, detail = judge(error)
        reports.put((number, replace(sighting, saw=saw, detail=detail)))
    except BaseException as error:  # a verifier of the user's with a bug in it: his thread shall hear of it
        reports.put((number, error))
    reports.put((number, None))


def _sleep(seconds: float, waiter: Waiter) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        waiter.wait(until)


def _look(gate: Gate, wanted: Wanted, seconds: float, waiter: Waiter) -> tuple[Saw, str]:
    """Try once."""
    until = time.monotonic() + seconds
    try:
        sock = dial(wanted.target, _OPTIONS, seconds, waiter)
        try:
            if wanted.verifier is not None:
                left = max(until - time.monotonic(), 0.01)
                verify_socket(sock, wanted.verifier, wanted.target, min(left, wanted.verifier.timeout), waiter)
        finally:
            hang_up(sock, gate.ports)
    except (OSError, UnicodeError) as error:
        return judge(error)
    return Saw.READY, ""
