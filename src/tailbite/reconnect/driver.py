"""The part of the loop that all shells share: it drives the state machine, calls the hooks, asks the classifier.

A shell only does the waiting: it runs :meth:`Loop.steps`, executes each effect it gets, and sends back the input
that came of it. ``Loop`` does no I/O.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeAlias, Unpack

from tailbite.reconnect import rehearsal
from tailbite.reconnect.arguments import LoopSettings, read_arguments
from tailbite.reconnect.machine import Machine, State
from tailbite.reconnect.messages import (
    Asked,
    Closed,
    Deliver,
    Drop,
    Emit,
    Failed,
    Input,
    Left,
    Open,
    Raise,
    Renewed,
    Sleep,
    Stop,
)
from tailbite.reconnect.messages import Verify as VerifyStep

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tailbite.connect.target import Target
    from tailbite.reconnect.events import Event

__all__ = ["UNDER_WAY", "Loop", "Work"]

Work: TypeAlias = "Open | VerifyStep | Drop | Sleep"
"""The effects that need I/O, or a clock."""

UNDER_WAY = "the next connection of this loop is being made already: iterate over a loop in one place only"
"""Text of the RuntimeError for a second thread, a second task, or a hook that asks for a connection as well."""

_log = logging.getLogger("tailbite")


class Loop:
    """One persistent connection: its machine, hooks and options.

    Args:
        target: the server to connect to.
        clock: returns a monotonic time in seconds.
        settings: see :class:`tailbite.LoopSettings`.

    Raises:
        ValueError: settings that cannot work.
        TypeError: an unknown setting, or one of the wrong type.
    """

    def __init__(self, target: Target, clock: Callable[[], float], **settings: Unpack[LoopSettings]) -> None:
        arguments = read_arguments(target, settings)
        self.target = target
        self.options = arguments.options
        self.verifier = arguments.machine.verifier
        self.machine = Machine(arguments.machine)
        self._clock = clock
        self._is_transient, self._is_lost = arguments.is_transient, arguments.is_lost
        self._hooks = arguments.hooks

    @property
    def state(self) -> State:
        """The state of the loop."""
        return self.machine.state

    def steps(self, *, closed: bool = False) -> Generator[Work, Input | None, bool]:
        """Work towards the next connection: yields each effect, is sent the input that came of it (None after Drop).

        Returns:
            True if there is a connection to deliver, False if the loop was closed.

        Raises:
            GaveUpError: a limit was reached.
            BaseException: a fatal error, unchanged.
        """
        happened: Input | None = Closed(self._clock()) if closed else Asked(self._clock())
        while happened is not None:
            effects, happened = self.machine.feed(happened), None
            for effect in effects:
                match effect:
                    case Emit(event):
                        self._call_hooks(event)
                    case Deliver():
                        return True
                    case Stop():
                        return False
                    case Raise(error):
                        raise error
                    case Sleep(seconds):
                        happened = yield Sleep(rehearsal.delay(seconds))
                    case Open() | VerifyStep():
                        happened = yield effect
                    case Drop():
                        yield effect
        return False

    def failed(self, error: BaseException) -> Failed:
        """Return the input for an error of opening or verifying; a classifier may replace the error by raising."""
        try:
            transient = self._is_transient(error)
        except Exception as replaced:
            return Failed(self._clock(), replaced, False)
        return Failed(self._clock(), _without_tracebacks(error) if transient else error, transient)

    def block_left(self, error: BaseException | None) -> bool:
        """Record that the user's block has ended.

        Returns:
            True if the error means that the connection was lost, so that the loop continues.
        """
        try:
            lost = isinstance(error, Exception) and self._is_lost(error)
            if lost and error is not None:
                _without_tracebacks(error)
            return lost
        finally:
            for effect in self.machine.feed(Left(self._clock(), error)):
                if isinstance(effect, Emit):
                    self._call_hooks(effect.event)

    def abandon(self) -> None:
        """Record that the loop ends here: closed, cancelled, or failed."""
        for effect in self.machine.feed(Closed(self._clock())):
            if isinstance(effect, Emit):
                self._call_hooks(effect.event)

    def renew(self) -> None:
        """Begin a new outage if the loop has ended."""
        if self.state is State.ENDED:
            self.machine.feed(Renewed(self._clock()))

    def _call_hooks(self, event: Event) -> None:
        for hook in self._hooks:
            try:
                hook(event)
            except Exception:
                # A broken hook must not take the connection down with it.
                _log.exception("the hook %r failed on %s", hook, type(event).__name__)


def _without_tracebacks(error: BaseException) -> BaseException:
    """Remove the tracebacks of an error that is kept and not raised: they keep frames alive, and sockets in them."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
