"""Wait until servers are ready: the gate that a connection to itself cannot open.

The usual gates (``nc -z``, a shell's ``/dev/tcp``, and the scripts around them) connect to the dead port until a
connect succeeds. In the ephemeral range this can happen without a server: the gate is connected to itself. Then the
gate opens, and the connection's TIME-WAIT on the server's port keeps exactly that server from starting.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tailbite.dial.options import Options
from tailbite.dial.sync import dial
from tailbite.dial.verify_sync import verify as verify_socket
from tailbite.dial.waiter import READ, Interrupted, Waiter
from tailbite.readiness.gate import HOLD, Gate, describe_failure, hang_up, listener_of, next_readiness
from tailbite.readiness.status import Readiness, TargetStatus, describe_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.readiness.target import Wanted
    from tailbite.reconnect.arguments import Address
    from tailbite.verifiers.verification import Verifier

__all__ = ["wait"]

_GRACE = 0.25
"""Seconds after the end for the threads that are about to report their last attempt."""

_OPTIONS = Options()


def wait(
    *targets: Address,
    verify: Verifier | None = None,
    timeout: float | None = 60.0,
    interval: float = 0.5,
    patience: float = 5.0,
    on_attempt: Callable[[Readiness], object] | None = None,
    **old: Any,
) -> tuple[Readiness, ...]:
    """Wait until every target is ready, all at once; never satisfied by a connection to itself.

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
    gate = Gate.of(targets, verify, timeout, interval, patience)
    return gate.verdict(_watch(gate, listener))


def _watch(gate: Gate, on_attempt: Callable[[Readiness], object] | None) -> list[Readiness]:
    start = time.monotonic()
    end = None if gate.timeout is None else start + gate.timeout
    reports: queue.SimpleQueue[tuple[int, Readiness | BaseException | None]] = queue.SimpleQueue()
    last = [Readiness(name) for name in gate.names]
    waiters = [Waiter() for _ in last]
    watching = len(last)
    latest = None if end is None else end + (_GRACE if gate.timeout else gate.patience + _GRACE)
    try:
        for number, waiter in enumerate(waiters):
            threading.Thread(target=_watch_one, args=(gate, number, start, end, waiter, reports), daemon=True).start()
        while watching:
            try:
                number, report = reports.get(timeout=None if latest is None else max(latest - time.monotonic(), 0))
            except queue.Empty:
                break
            if report is None:
                watching -= 1
            elif isinstance(report, BaseException):
                raise report
            else:
                last[number] = report
                if on_attempt is not None:
                    on_attempt(report)
    finally:
        for waiter in waiters:
            waiter.interrupt()
    return last


def _watch_one(
    gate: Gate,
    number: int,
    start: float,
    end: float | None,
    waiter: Waiter,
    reports: queue.SimpleQueue[tuple[int, Readiness | BaseException | None]],
) -> None:
    wanted = gate.wanted[number]
    readiness = Readiness(gate.names[number])
    try:
        with waiter.armed():
            while True:
                limit = gate.limit(None if end is None else end - time.monotonic())
                status, detail = _attempt(gate, wanted, limit, waiter)
                now = time.monotonic()
                is_hurried = limit < gate.patience
                seconds = round(now - start, 3)
                readiness = next_readiness(readiness, status, detail, seconds, hurried=is_hurried)
                reports.put((number, readiness))
                pause = gate.pause(None if end is None else end - now)
                if readiness.ready or pause is None:
                    break
                _sleep(pause, waiter)
    except Interrupted:
        pass
    except OSError as error:  # no descriptors left to wait with
        status, detail = describe_error(error)
        reports.put((number, replace(readiness, status=status, detail=detail)))
    except BaseException as error:  # a bug in the user's verifier: the calling thread raises it
        reports.put((number, error))
    reports.put((number, None))


def _sleep(seconds: float, waiter: Waiter) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        waiter.wait(until)


def _attempt(gate: Gate, wanted: Wanted, seconds: float, waiter: Waiter) -> tuple[TargetStatus, str]:
    """Connect to a target once, and ask it."""
    until = time.monotonic() + seconds
    try:
        sock = dial(wanted.target, _OPTIONS, seconds, waiter)
        try:
            left = max(until - time.monotonic(), 0.01)
            if wanted.verifier is not None:
                verify_socket(sock, wanted.verifier, wanted.target, min(left, wanted.verifier.timeout), waiter)
            elif not _is_held(sock, min(left, HOLD), waiter):
                return TargetStatus.CLOSED, ""
        finally:
            hang_up(sock, gate.ports)
    except (OSError, UnicodeError) as error:
        return describe_failure(error, wanted.target)
    return TargetStatus.READY, ""


def _is_held(sock: socket.socket, seconds: float, waiter: Waiter) -> bool:
    """Tell whether the peer keeps the connection open for a while, or sends something."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if waiter.wait(until, {sock: READ}):
            return sock.recv(1, socket.MSG_PEEK) != b""
    return True
