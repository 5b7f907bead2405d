"""What the three shells share: driving the state machine, telling the hooks, asking the classifier.

A shell does the waiting and nothing else: it runs :meth:`Loop.steps`, carries out each effect it is given, and sends
back what came of it. ``Loop`` does no I/O.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack

from tailbite.core.backoff import Backoff, Policy
from tailbite.dial.options import Options
from tailbite.reconnect import rehearsal
from tailbite.reconnect.classify import Retry, is_lost_connection, is_transient, judge
from tailbite.reconnect.machine import Machine, Settings, State
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
    Sleep,
    Stop,
)
from tailbite.reconnect.messages import Verify as VerifyStep
from tailbite.verifiers.verification import Verifier

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Generator, Iterable

    from tailbite.connect.target import Target
    from tailbite.core.backoff import Delays
    from tailbite.reconnect.events import Event

__all__ = ["Hook", "Loop", "LoopSettings", "Work"]

Hook: TypeAlias = "Callable[[Event], object]"
Work: TypeAlias = "Open | VerifyStep | Drop | Sleep"
"""The effects that need I/O, or a clock."""

_log = logging.getLogger("tailbite")


class LoopSettings(TypedDict, total=False):
    """The keywords of every ``connections()`` and of :class:`tailbite.Connector`.

    Attributes:
        timeout: seconds for opening one connection: name, socket and TLS together (10).
        backoff: the delays between attempts, a :class:`~tailbite.Backoff` or any function that returns an iterator
            of seconds (full jitter below 0.1 s, doubling up to 30 s).
        max_attempts: how many attempts an outage may take (no limit).
        deadline: how many seconds an outage may take (no limit).
        first: the :class:`~tailbite.Policy` before the first connection (the same as later).
        healthy_after: seconds after which a connection counts as one that works, so that the backoff starts anew (5).
        retry: which errors are worth another attempt, see :mod:`tailbite.reconnect.classify`.
        verify: who must accept the peer before the connection is believed, see :mod:`tailbite.verify`.
        hooks: called with every event, see :mod:`tailbite.reconnect.events`; one function or several.
        ssl: True or an ``ssl.SSLContext`` for TLS.
        server_hostname: the name the certificate must be for (the host).
        source_address: host and port to bind to first.
        allow_same_port: accept a ``source_address`` with the destination's port, for servers on other hosts.
        happy_eyeballs_delay: seconds before the next address of a name is tried beside the one under way (0.25).
        keepalive: seconds within which a peer that has vanished is noticed, without anything being sent (off).
        user_timeout: seconds for which data may stay unacknowledged before the connection ends (the kernel's).
        nodelay: send small writes at once (True).
    """

    timeout: float
    backoff: Delays
    max_attempts: int | None
    deadline: float | None
    first: Policy | None
    healthy_after: float
    retry: Retry
    verify: Verifier | None
    hooks: Hook | Iterable[Hook]
    ssl: ssl.SSLContext | bool | None
    server_hostname: str | None
    source_address: tuple[str, int] | None
    allow_same_port: bool
    happy_eyeballs_delay: float
    keepalive: float | None
    user_timeout: float | None
    nodelay: bool


class Loop:
    """One persistent connection: its machine, hooks and options.

    Args:
        target: where to connect to.
        clock: returns a monotonic time in seconds.
        settings: see :class:`LoopSettings`.

    Raises:
        ValueError: settings that cannot work.
        TypeError: an option that does not exist, or a hook that cannot be called.
    """

    def __init__(
        self,
        target: Target,
        clock: Callable[[], float],
        **settings: Unpack[LoopSettings],
    ) -> None:
        given: dict[str, Any] = dict(settings)
        for name in given:
            if name not in LoopSettings.__annotations__:
                raise TypeError(f"there is no setting {name!r}; there are {', '.join(LoopSettings.__annotations__)}")
        backoff, most, deadline = (given.pop(name, None) for name in ("backoff", "max_attempts", "deadline"))
        later = rehearsal.limit(Policy(backoff or Backoff(), most, deadline))
        first = given.pop("first", None)
        self.target = target
        self.verifier: Verifier | None = given.pop("verify", None)
        if self.verifier is not None and not isinstance(self.verifier, Verifier):
            raise TypeError(f"verify must be a verifier, such as tailbite.verify.redis(), not {self.verifier!r}")
        self._clock = clock
        retry = given.pop("retry", None)
        self._is_transient = judge(retry, is_transient)
        self._is_lost = judge(retry, is_lost_connection)
        hooks = given.pop("hooks", ())
        self._hooks: tuple[Hook, ...] = (hooks,) if callable(hooks) else tuple(hooks)
        for hook in self._hooks:
            if not callable(hook):
                raise TypeError(f"a hook must be callable, and {hook!r} is not")
        timeout, healthy_after = given.pop("timeout", 10.0), given.pop("healthy_after", 5.0)
        self.options = Options.of(target, **given)
        self.machine = Machine(
            Settings(target, timeout, rehearsal.limit(first) if first else later, later, healthy_after, self.verifier)
        )

    @property
    def state(self) -> State:
        """Where the loop is."""
        return self.machine.state

    def steps(self, *, closed: bool = False) -> Generator[Work, Input | None, bool]:
        """Work towards the next connection. Yields what to do, is sent what came of it; Drop is sent nothing.

        Returns:
            True if there is a connection to deliver, False if the loop was closed.

        Raises:
            GaveUpError: a limit was reached.
            BaseException: an error that is fatal, as it was.
        """
        happened: Input | None = Closed(self._clock()) if closed else Asked(self._clock())
        while happened is not None:
            effects, happened = self.machine.feed(happened), None
            for effect in effects:
                match effect:
                    case Emit(event):
                        self._tell(event)
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
        """Make the input of an error met while opening or verifying; a classifier may replace it by raising."""
        try:
            transient = self._is_transient(error)
        except Exception as replaced:
            return Failed(self._clock(), replaced, False)
        return Failed(self._clock(), _light(error) if transient else error, transient)

    def left(self, error: BaseException | None) -> bool:
        """Take note that the user's block was left.

        Returns:
            True if the error means that the connection was lost, so that the loop goes on.
        """
        try:
            lost = isinstance(error, Exception) and self._is_lost(error)
            if lost and error is not None:
                _light(error)
            return lost
        finally:
            for effect in self.machine.feed(Left(self._clock(), error)):
                if isinstance(effect, Emit):
                    self._tell(effect.event)

    def abandon(self) -> None:
        """Take note that the loop ends here: closed, cancelled, or the user is gone."""
        for effect in self.machine.feed(Closed(self._clock())):
            if isinstance(effect, Emit):
                self._tell(effect.event)

    def _tell(self, event: Event) -> None:
        for hook in self._hooks:
            try:
                hook(event)
            except Exception:
                # A broken hook must not take the connection down with it.
                _log.exception("the hook %r failed on %s", hook, type(event).__name__)


def _light(error: BaseException) -> BaseException:
    """Take the tracebacks from an error that is remembered and not raised: they keep frames alive, and sockets."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
