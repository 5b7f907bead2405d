"""Answering the calls that a filter reports, one after the other, in a worker or in a supervisor."""

from __future__ import annotations

import contextlib
import select
import signal
from typing import TYPE_CHECKING, Final

from tailbite.guards.program.shared_page import Outcome
from tailbite.kernel.prctl import signal_when_parent_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.guards.program.monitor import Watch
    from tailbite.guards.program.shared_page import WorkerSlot
    from tailbite.guards.program.steerer import Steerer
    from tailbite.kernel.seccomp import Listener

__all__ = ["serve_blocking", "serve_polling"]

_IDLE_SECONDS: Final = 0.5
_REPEAT_SECONDS: Final = 0.01


class _Alarm:
    """Signals that interrupt the wait for a call: the end of the monitor, and the time to look whether to stay."""

    def __init__(self, period: float) -> None:
        self.rang = False
        self._period = period
        signal.signal(signal.SIGALRM, self._ring)
        signal.signal(signal.SIGUSR1, self._ring_until_noticed)
        signal_when_parent_ends(signal.SIGUSR1)
        signal.setitimer(signal.ITIMER_REAL, period, period)

    def _ring(self, *_: object) -> None:
        self.rang = True

    def _ring_until_noticed(self, *_: object) -> None:
        # A signal that comes just before the wait would not interrupt it, so others follow.
        self.rang = True
        signal.setitimer(signal.ITIMER_REAL, _REPEAT_SECONDS, _REPEAT_SECONDS)

    def notice(self) -> None:
        self.rang = False
        signal.setitimer(signal.ITIMER_REAL, self._period, self._period)

    def switch_off(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (signal.SIGUSR1, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        signal_when_parent_ends(0)


def serve_blocking(listener: Listener, slot: WorkerSlot, steerer: Steerer, watch: Watch) -> bool:
    """Answer calls as :func:`serve_polling` does, sooner: wait in the ioctl itself instead of in poll(2) before it.

    Worker and program share a CPU, so all that happens between an answer and the next wait delays the program. The
    price is that the end of the monitor must come as a signal (PR_SET_PDEATHSIG), which interrupts the wait.

    Returns:
        True when nobody is left under the filter, or when a worker other than 0 has had nothing to do for a while;
        False when the monitor has ended.
    """
    served = -1
    alarm = _Alarm(_IDLE_SECONDS if slot.number else 0)
    poll = select.poll()
    poll.register(listener.descriptor, select.POLLIN)
    try:
        _finish_left(listener, slot, steerer)
        while not watch.has_ended():
            if slot.number and alarm.rang:
                if (now_served := sum(slot.counts)) == served and not steerer.has_pending_calls:
                    return True
                served = now_served
            alarm.notice()
            if _serve_until(alarm, listener, slot, steerer, poll):
                return True
        return False
    finally:
        alarm.switch_off()


def _serve_until(alarm: _Alarm, listener: Listener, slot: WorkerSlot, steerer: Steerer, poll: select.poll) -> bool:
    """Answer calls until the alarm rings (False) or nobody is left under the filter (True)."""
    wait = steerer.release_ports()
    while not alarm.rang:
        if wait is not None and not _comes_within(listener, wait):
            wait = steerer.release_ports()
            continue
        # While a port is held its release must not be forgotten, however many fast-path calls come.
        if steerer.serve_fast_path() if wait is None else listener.receive():
            _finish(listener, slot, steerer)
            wait = steerer.release_ports()
        elif any(event & select.POLLHUP for _, event in poll.poll(0)):
            return True
    return False


def _comes_within(listener: Listener, seconds: float) -> bool:
    """Wait for a call; select(2) counts in microseconds where poll(2) counts in milliseconds."""
    return bool(select.select([listener.descriptor], [], [], seconds)[0])


def serve_polling(
    listener: Listener, slot: WorkerSlot, steerer: Steerer, others: dict[int, Callable[[], bool]]
) -> int | None:
    """Answer calls, first the one that a predecessor left.

    Args:
        listener: the listener that calls come from.
        slot: the memory shared with the process that takes over.
        steerer: inspects a call before it is answered.
        others: descriptors to watch as well, and functions to call when one becomes readable. True ends this; after
            False the descriptor is watched no longer if it has been removed from ``others``.

    Returns:
        The descriptor whose function said so; None when nobody is left under the filter.
    """
    _finish_left(listener, slot, steerer)
    wait: float | None = None
    while True:
        readable, _, _ = select.select([listener.descriptor, *others], [], [], wait)
        for descriptor in readable:
            if descriptor != listener.descriptor and others[descriptor]():
                return descriptor
        if listener.descriptor in readable:
            poll = select.poll()
            poll.register(listener.descriptor, select.POLLIN)
            events = dict(poll.poll(0)).get(listener.descriptor, 0)
            if events & select.POLLIN:
                if listener.receive():
                    _finish(listener, slot, steerer)
            elif events & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                return None
        wait = steerer.release_ports()


def _finish_left(listener: Listener, slot: WorkerSlot, steerer: Steerer | None) -> None:
    """Answer the call that a killed predecessor left, if it left one."""
    if (call_id := slot.call_id) and listener.is_waiting():
        # If this call has already crashed several workers, let it run unguarded instead of crashing the next one.
        _finish(listener, slot, steerer if slot.try_again(call_id) else None)


def _finish(listener: Listener, slot: WorkerSlot, steerer: Steerer | None) -> None:
    outcome: Outcome | None = Outcome.UNSEEN
    if steerer is not None:
        with contextlib.suppress(Exception):  # whatever it is, the program must not wait forever
            outcome = steerer.inspect_call()
    if outcome is not None:
        slot.counts[outcome] += 1
    listener.answer()
