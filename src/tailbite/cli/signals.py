"""The signals that ask a command to end: SIGTERM of a service manager, SIGHUP of a terminal that was closed."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ENDING", "call_when_ended"]

ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


def call_when_ended(handler: Callable[[int], None]) -> None:
    """Call ``handler`` with the signal's number; a signal that is ignored (nohup(1) ignores SIGHUP) stays so."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda received, _: handler(received))
