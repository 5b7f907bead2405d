"""The reconnecting state machine: inputs in, effects out. It owns no socket, no clock and no thread.

A shell (:mod:`tailbite.reconnect.sync` and its siblings) feeds inputs and executes the effects it gets back::

    for effect in machine.feed(Asked(now)):
        ...                                     # Emit to the hooks, Open a connection, Sleep, Deliver, Raise ...

Every permitted transition is a row of :data:`TABLE`. A pair of state and input without a row is a bug in the shell
(:class:`ShellError`). Of several rows for one pair, the first whose condition holds is used. ``docs/persistent.md``
shows the table as a diagram, made by :func:`diagram`.

The shells rely on these rules, and the tests check them: there is at most one connection at any time; every
connection that is opened is delivered or dropped; ``Deliver`` comes after the verifier has accepted the peer; every
wait is finite.

**Why there is a state REOPENING.** Some verifiers spend the connection they test: PostgreSQL's login and a TLS
handshake cannot be undone, so the user could not begin a session of their own on it. Such a connection is
dropped, and a second one is opened for the user without being verified again, which would spend that one as well.
Between the two the server may have gone: then the attempt has failed like any other.

**Why the backoff restarts only after** ``healthy_after`` **seconds.** A server that is starting, or a proxy without a
backend, accepts connections and closes them at once. If every connection restarted the backoff, the loop would
connect thousands of times a second. So a short connection counts as a failed attempt of the same outage, and the wait
after it grows. The loop's very first connection always ends the first outage, however short it was: the policy
``first`` is for the time before there was any connection.

**Why the last wait is cut.** The next delay of the backoff may end after the deadline. Giving up at once would waste
the rest of the time (a 30 s deadline would end after 20 s on average), so the wait ends shortly before the deadline,
and one more attempt is made. A deadline counts from the moment a connection is asked for, not from the loss of the
last one, which may have been hours ago.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from tailbite.core.backoff import Policy
from tailbite.errors import GaveUpError, SelfConnectError
from tailbite.reconnect import events
from tailbite.reconnect.messages import (
    Asked,
    Closed,
    Deliver,
    Drop,
    Effect,
    Emit,
    Failed,
    Input,
    Left,
    Open,
    Opened,
    PeerVerified,
    Raise,
    Renewed,
    Sleep,
    Slept,
    Stop,
    Verify,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tailbite.connect.target import Target
    from tailbite.verifiers.verification import Verifier

__all__ = ["TABLE", "Machine", "Row", "Settings", "ShellError", "State", "diagram"]

_REMEMBERED = 1000
"""Failed attempts that a loop without a limit keeps for its error."""

_LAST_ATTEMPT = 0.25
"""Seconds left for the last attempt before a deadline; of a short deadline at most a twentieth."""

_DEFAULT_POLICY = Policy()


class State(Enum):
    """The state of a reconnecting loop."""

    IDLE = "nobody asks for a connection"
    WAITING = "before the next attempt"
    CONNECTING = "name, socket, TLS"
    VERIFYING = "is it the server?"
    REOPENING = "the verifier spent the first connection"
    CONNECTED = "the user has the connection"
    ENDED = "closed, failed or given up"


class ShellError(RuntimeError):
    """An input that cannot occur in this state: a bug in the shell that fed it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one loop.

    Attributes:
        target: the server to connect to.
        timeout: seconds for opening one connection: resolving, connecting and TLS together.
        first: retry policy until the first connection succeeds.
        later: retry policy for every later outage.
        healthy_after: seconds after which a connection counts as one that works.
        verifier: the verifier that must accept the peer; None accepts every peer.
    """

    target: Target
    timeout: float = 10.0
    first: Policy = _DEFAULT_POLICY
    later: Policy = _DEFAULT_POLICY
    healthy_after: float = 5.0
    verifier: Verifier | None = None

    def __post_init__(self) -> None:
        if not (self.timeout > 0 and math.isfinite(self.timeout)):
            raise ValueError(f"timeout must be a finite number of seconds above 0, not {self.timeout}")
        if not self.healthy_after >= 0:
            raise ValueError(f"healthy_after must be 0 or more seconds, not {self.healthy_after}")


class Machine:
    """The state of one persistent connection.

    Attributes:
        settings: the loop's settings.
        state: the present state.
        number: the number of attempts in the present outage.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state = State.IDLE
        self.number = 0
        self._policy = settings.first
        self._delays: Iterator[float] = iter(())
        self._failures: deque[events.FailedAttempt] = deque()
        self._outage_since = -math.inf  # before the first Asked
        self._due: float | None = None
        self._began = self._opened_at = self._delivered_at = 0.0
        self._ends = ("", "")
        self._is_first = True
        self._failure = Failed(0.0, Exception(), True)
        self._lost = events.Lost(settings.target, 0.0, 0.0, None)

    def feed(self, happened: Input) -> list[Effect]:
        """Take one input, and return the effects to execute.

        Raises:
            ShellError: the input cannot occur in this state.
            ValueError: the user's backoff yielded an invalid delay (negative, infinite or NaN).
        """
        rows = [row for row in TABLE if row.state is self.state and type(happened) is row.input]
        if not rows:
            raise ShellError(f"{happened} cannot occur while the state is {self.state.name}")
        self._note(happened)
        row = next(row for row in rows if row.when(self, happened.now))
        effects = row.then(self, happened.now)
        self.state = row.to
        return effects

    # -- the memory, updated before the table is used

    def _note(self, happened: Input) -> None:
        match happened:
            case Asked(now) if self._outage_since == -math.inf:
                self._start_outage(now)
            case Asked(now) if self.number == 0:
                self._outage_since = now  # nobody has waited for the connection until now
            case Opened(now, local, remote):
                self._opened_at, self._ends = now, (local, remote)
            case Failed(now, error):
                self._failure = happened
                self._remember(now, error)
            case Left(now, error) if self.state is State.CONNECTED:
                self._note_left(now, error)

    def _note_left(self, now: float, error: BaseException | None) -> None:
        lasted = now - self._delivered_at
        self._lost = events.Lost(self.settings.target, now, lasted, error)
        if self._is_first or lasted >= self.settings.healthy_after:
            self._is_first = False
            self._start_outage(now)
            self._schedule(now)
            if self._due is None:
                self._due = now  # an outage has one attempt at least
        else:
            self._remember(now, error)

    def _start_outage(self, now: float) -> None:
        policy = self._policy = self.settings.first if self._is_first else self.settings.later
        self._delays = policy.delays()
        self._due = now
        limited = policy.max_attempts is not None or policy.deadline is not None
        self._failures = deque(maxlen=None if limited else _REMEMBERED)
        self._outage_since = now
        self.number = 0

    def _remember(self, now: float, error: BaseException | None) -> None:
        self._failures.append(events.FailedAttempt(self.number, now, now - self._began, error))
        self._schedule(now)

    def _schedule(self, now: float) -> None:
        """Take the next delay of the backoff; cut it if there is time for just one more attempt."""
        delay = next(self._delays, None)
        self._due = None if delay is None else now + delay
        if self._due is not None and now < self._last_start():
            self._due = min(self._due, self._last_start())

    def _last_start(self) -> float:
        """Return the time at which the last attempt before the deadline begins."""
        deadline = self._policy.deadline
        if deadline is None:
            return math.inf
        return self._outage_since + deadline - min(_LAST_ATTEMPT, deadline / 20)

    # -- conditions; their docstrings are the diagram's labels

    def _always(self, now: float) -> bool:
        return True

    def _is_fatal(self, now: float) -> bool:
        """fatal"""
        return not self._failure.transient

    def _is_exhausted(self, now: float) -> bool:
        """limit reached"""
        return self._limit() is not None

    def _is_early(self, now: float) -> bool:
        """backoff not over"""
        return self._due is not None and self._due > now

    def _is_to_verify(self, now: float) -> bool:
        """with a verifier"""
        return self.settings.verifier is not None

    def _is_spent(self, now: float) -> bool:
        """connection is spent"""
        return self.settings.verifier is not None and self.settings.verifier.spends

    def _limit(self) -> str | None:
        most, deadline = self._policy.max_attempts, self._policy.deadline
        if self.number == 0:
            return None  # an outage has one attempt at least
        if most is not None and self.number >= most:
            return f"max_attempts is {most}"
        if self._due is None:
            return "the backoff has no more delays"
        if deadline is not None and self._due > self._last_start():
            return f"the deadline is {deadline:g} s"
        return None

    # -- actions

    def _attempt(self, now: float) -> list[Effect]:
        self.number += 1
        self._began = now
        timeout = self._in_time(self.settings.timeout, now)
        return [Emit(events.Attempting(self.settings.target, now, self.number, timeout)), Open(timeout)]

    def _in_time(self, seconds: float, now: float) -> float:
        if self._policy.deadline is None:
            return seconds
        return max(0.0, min(seconds, self._outage_since + self._policy.deadline - now))

    def _wait(self, now: float) -> list[Effect]:
        seconds = max(0.0, (self._due or 0.0) - now)
        return [Emit(events.Waiting(self.settings.target, now, self.number + 1, seconds)), Sleep(seconds)]

    def _verify(self, now: float) -> list[Effect]:
        return [Verify(self._in_time(self._verifier.timeout, now))]

    @property
    def _verifier(self) -> Verifier:
        assert self.settings.verifier is not None, "the table verifies only with a verifier"
        return self.settings.verifier

    def _report_verified(self, now: float) -> list[Effect]:
        took = now - self._opened_at
        return [Emit(events.Verified(self.settings.target, now, self.number, took, self._verifier.name))]

    def _reopen(self, now: float) -> list[Effect]:
        return [*self._report_verified(now), Drop(), Open(self._in_time(self.settings.timeout, now))]

    def _deliver(self, now: float) -> list[Effect]:
        self._delivered_at = now
        took = now - self._began
        return [Emit(events.Connected(self.settings.target, now, self.number, took, *self._ends)), Deliver()]

    def _accept_peer(self, now: float) -> list[Effect]:
        return [*self._report_verified(now), *self._deliver(now)]

    def _report_lost(self, now: float) -> list[Effect]:
        return [Emit(self._lost)]

    def _report_failure(self, now: float) -> list[Effect]:
        """Report the failed attempt, and drop its connection: that of a refused peer is still open."""
        error, target, took = self._failure.error, self.settings.target, now - self._began
        if self.state is State.VERIFYING:
            name = self._verifier.name
            return [Drop(), Emit(events.VerifyFailed(target, now, self.number, took, name, error))]
        kind = events.SelfConnected if isinstance(error, SelfConnectError) else events.Refused
        return [Emit(kind(target, now, self.number, took, error))]

    def _retry(self, now: float) -> list[Effect]:
        return [*self._report_failure(now), *self._wait(now)]

    def _fail(self, now: float) -> list[Effect]:
        return [*self._report_failure(now), *self._end_with(now, "not worth another attempt", self._failure.error)]

    def _fail_and_give_up(self, now: float) -> list[Effect]:
        return [*self._report_failure(now), *self._give_up(now)]

    def _give_up(self, now: float) -> list[Effect]:
        why, attempts = self._limit() or "", tuple(self._failures)
        seconds = now - self._outage_since
        error = GaveUpError(str(self.settings.target), why, attempts, total=self.number, seconds=seconds)
        error.__cause__ = attempts[-1].error
        return self._end_with(now, why, error)

    def _end_with(self, now: float, why: str, error: BaseException) -> list[Effect]:
        return [Emit(events.GaveUp(self.settings.target, now, self.number, why, error)), Raise(error)]

    def _stop(self, now: float) -> list[Effect]:
        return [Stop()]

    def _drop(self, now: float) -> list[Effect]:
        return [Drop(), Stop()]

    def _drop_delivered(self, now: float) -> list[Effect]:
        return [Drop(), Emit(events.Lost(self.settings.target, now, now - self._delivered_at, None)), Stop()]

    def _renew(self, now: float) -> list[Effect]:
        self._start_outage(now)
        return []

    def _nothing(self, now: float) -> list[Effect]:
        return []


@dataclass(frozen=True, slots=True)
class Row:
    """One transition: in ``state``, on ``input``, if ``when`` holds, do ``then`` and change to ``to``."""

    state: State
    input: type[Input]
    when: Callable[[Machine, float], bool]
    then: Callable[[Machine, float], list[Effect]]
    to: State


_M, _S = Machine, State
TABLE: tuple[Row, ...] = (
    Row(_S.IDLE, Asked, _M._is_exhausted, _M._give_up, _S.ENDED),
    Row(_S.IDLE, Asked, _M._is_early, _M._wait, _S.WAITING),
    Row(_S.IDLE, Asked, _M._always, _M._attempt, _S.CONNECTING),
    Row(_S.IDLE, Closed, _M._always, _M._stop, _S.ENDED),
    Row(_S.WAITING, Slept, _M._always, _M._attempt, _S.CONNECTING),
    Row(_S.WAITING, Closed, _M._always, _M._stop, _S.ENDED),
    Row(_S.CONNECTING, Opened, _M._is_to_verify, _M._verify, _S.VERIFYING),
    Row(_S.CONNECTING, Opened, _M._always, _M._deliver, _S.CONNECTED),
    Row(_S.CONNECTING, Failed, _M._is_fatal, _M._fail, _S.ENDED),
    Row(_S.CONNECTING, Failed, _M._is_exhausted, _M._fail_and_give_up, _S.ENDED),
    Row(_S.CONNECTING, Failed, _M._always, _M._retry, _S.WAITING),
    Row(_S.CONNECTING, Closed, _M._always, _M._stop, _S.ENDED),
    Row(_S.VERIFYING, PeerVerified, _M._is_spent, _M._reopen, _S.REOPENING),
    Row(_S.VERIFYING, PeerVerified, _M._always, _M._accept_peer, _S.CONNECTED),
    Row(_S.VERIFYING, Failed, _M._is_fatal, _M._fail, _S.ENDED),
    Row(_S.VERIFYING, Failed, _M._is_exhausted, _M._fail_and_give_up, _S.ENDED),
    Row(_S.VERIFYING, Failed, _M._always, _M._retry, _S.WAITING),
    Row(_S.VERIFYING, Closed, _M._always, _M._drop, _S.ENDED),
    Row(_S.REOPENING, Opened, _M._always, _M._deliver, _S.CONNECTED),
    Row(_S.REOPENING, Failed, _M._is_fatal, _M._fail, _S.ENDED),
    Row(_S.REOPENING, Failed, _M._is_exhausted, _M._fail_and_give_up, _S.ENDED),
    Row(_S.REOPENING, Failed, _M._always, _M._retry, _S.WAITING),
    Row(_S.REOPENING, Closed, _M._always, _M._stop, _S.ENDED),
    Row(_S.CONNECTED, Left, _M._always, _M._report_lost, _S.IDLE),
    Row(_S.CONNECTED, Closed, _M._always, _M._drop_delivered, _S.ENDED),
    Row(_S.ENDED, Asked, _M._always, _M._stop, _S.ENDED),
    Row(_S.ENDED, Renewed, _M._always, _M._renew, _S.IDLE),
    Row(_S.ENDED, Left, _M._always, _M._nothing, _S.ENDED),
    Row(_S.ENDED, Closed, _M._always, _M._nothing, _S.ENDED),
)


def diagram() -> str:
    """Return the table as a Mermaid state diagram, with one arrow for all rows from one state to another."""
    lines = ["stateDiagram-v2", "    [*] --> IDLE"]
    lines += [f"    {state.name}: {state.name}<br>{state.value}" for state in State]
    arrows: dict[tuple[State, State], list[str]] = {}
    for row in TABLE:
        condition = f" [{row.when.__doc__}]" if row.when.__doc__ else ""
        arrows.setdefault((row.state, row.to), []).append(f"{row.input.__name__}{condition}")
    lines += [f"    {begin.name} --> {end.name}: {'<br>'.join(labels)}" for (begin, end), labels in arrows.items()]
    return "\n".join(lines) + "\n"
