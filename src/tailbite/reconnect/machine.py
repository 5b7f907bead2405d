"""The reconnecting state machine: inputs in, effects out. It owns no socket, no clock and no thread.

A shell (:mod:`tailbite.reconnect.sync` and its siblings) feeds it with what happened, and does what it answers::

    for effect in machine.feed(Asked(now)):
        ...                                     # Emit to the hooks, Open a connection, Sleep, Deliver, Raise ...

Everything that may follow is a row of :data:`TABLE`, and a pair of state and input that has no row is a mistake of
the shell (:class:`ShellError`). Of several rows the first whose condition holds is taken. ``docs/persistent.md``
shows the table as a diagram, drawn by :func:`diagram`.

What the shells can rely on, and the tests hold: there is at most one connection at any time; every one that is
opened is delivered or dropped; ``Deliver`` comes after the verifier has accepted; every wait is finite; the backoff
starts anew only after a connection that lasted ``healthy_after`` seconds, so a peer that accepts and closes at once
meets a growing wait.
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
    Believed,
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
    Raise,
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


_DEFAULT_POLICY = Policy()


class State(Enum):
    """Where the loop is."""

    IDLE = "nobody asks for a connection"
    WAITING = "before the next attempt"
    CONNECTING = "name, socket, TLS"
    VERIFYING = "is it the server?"
    REOPENING = "the verifier spent the first connection"
    CONNECTED = "the user has it"
    ENDED = "for good"


class ShellError(RuntimeError):
    """A shell fed an input that cannot occur in this state."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a loop was told.

    Attributes:
        target: where to connect to.
        timeout: seconds for opening one connection: resolving, connecting and TLS together.
        first: how the time before the first connection is met.
        later: how every later outage is met.
        healthy_after: seconds after which a connection counts as one that works.
        verifier: who must accept the peer; None believes every peer.
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
    """One persistent connection's state.

    Attributes:
        settings: what it was told.
        state: where it is.
        number: how many attempts the present outage has had.
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
        """Take one input, and return what is to be done.

        Raises:
            ShellError: the input cannot occur in this state.
            ValueError: the user's backoff gave a delay that is none.
        """
        rows = [row for row in TABLE if row.state is self.state and type(happened) is row.input]
        if not rows:
            raise ShellError(f"{happened} cannot occur while the state is {self.state.name}")
        self._note(happened)
        row = next(row for row in rows if row.when(self, happened.now))
        effects = row.then(self, happened.now)
        self.state = row.to
        return effects

    # -- what is remembered before the table is asked

    def _note(self, happened: Input) -> None:
        match happened:
            case Asked(now) if self._outage_since == -math.inf:
                self._start_outage(now, self.settings.first)
                self._due = now
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
            self._start_outage(now, self.settings.later)
            self._draw(now)
            self._due = min(self._due or now, now + self._half_of_deadline())
        else:
            self._remember(now, error)

    def _half_of_deadline(self) -> float:
        """Return what a first wait may take, so that there is time left for the attempt after it."""
        return math.inf if self._policy.deadline is None else self._policy.deadline / 2

    def _start_outage(self, now: float, policy: Policy) -> None:
        self._policy = policy
        self._delays = iter(policy.backoff())
        limited = policy.max_attempts is not None or policy.deadline is not None
        self._failures = deque(maxlen=None if limited else _REMEMBERED)
        self._outage_since = now
        self.number = 0

    def _remember(self, now: float, error: BaseException | None) -> None:
        self._failures.append(events.FailedAttempt(self.number, now, now - self._began, error))
        self._draw(now)

    def _draw(self, now: float) -> None:
        delay = next(self._delays, None)
        if delay is not None and not 0 <= delay < math.inf:
            raise ValueError(f"backoff gave {delay!r} as a delay: it must be a finite number of seconds, 0 or more")
        self._due = None if delay is None else now + delay

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
        if deadline is not None and self._due - self._outage_since >= deadline:
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

    def _verified(self, now: float) -> list[Effect]:
        took = now - self._opened_at
        return [Emit(events.Verified(self.settings.target, now, self.number, took, self._verifier.name))]

    def _reopen(self, now: float) -> list[Effect]:
        return [*self._verified(now), Drop(), Open(self._in_time(self.settings.timeout, now))]

    def _deliver(self, now: float) -> list[Effect]:
        self._delivered_at = now
        took = now - self._began
        return [Emit(events.Connected(self.settings.target, now, self.number, took, *self._ends)), Deliver()]

    def _believe(self, now: float) -> list[Effect]:
        return [*self._verified(now), *self._deliver(now)]

    def _settle(self, now: float) -> list[Effect]:
        return [Emit(self._lost)]

    def _tell(self, now: float) -> list[Effect]:
        """Say how the attempt failed, and drop what it left: a refused peer's connection is still open."""
        error, target, took = self._failure.error, self.settings.target, now - self._began
        if self.state is State.VERIFYING:
            name = self._verifier.name
            return [Drop(), Emit(events.VerifyFailed(target, now, self.number, took, name, error))]
        kind = events.SelfConnected if isinstance(error, SelfConnectError) else events.Refused
        return [Emit(kind(target, now, self.number, took, error))]

    def _retry(self, now: float) -> list[Effect]:
        return [*self._tell(now), *self._wait(now)]

    def _fail(self, now: float) -> list[Effect]:
        return [*self._tell(now), *self._end(now, "not worth another attempt", self._failure.error)]

    def _exhaust(self, now: float) -> list[Effect]:
        return [*self._tell(now), *self._give_up(now)]

    def _give_up(self, now: float) -> list[Effect]:
        why, attempts = self._limit() or "", tuple(self._failures)
        seconds = now - self._outage_since
        error = GaveUpError(str(self.settings.target), why, attempts, total=self.number, seconds=seconds)
        error.__cause__ = attempts[-1].error
        return self._end(now, why, error)

    def _end(self, now: float, why: str, error: BaseException) -> list[Effect]:
        return [Emit(events.GaveUp(self.settings.target, now, self.number, why, error)), Raise(error)]

    def _stop(self, now: float) -> list[Effect]:
        return [Stop()]

    def _drop(self, now: float) -> list[Effect]:
        return [Drop(), Stop()]

    def _nothing(self, now: float) -> list[Effect]:
        return []


@dataclass(frozen=True, slots=True)
class Row:
    """In ``state``, on ``input``, and if ``when`` holds, do ``then`` and go ``to``."""

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
    Row(_S.CONNECTING, Failed, _M._is_exhausted, _M._exhaust, _S.ENDED),
    Row(_S.CONNECTING, Failed, _M._always, _M._retry, _S.WAITING),
    Row(_S.CONNECTING, Closed, _M._always, _M._stop, _S.ENDED),
    Row(_S.VERIFYING, Believed, _M._is_spent, _M._reopen, _S.REOPENING),
    Row(_S.VERIFYING, Believed, _M._always, _M._believe, _S.CONNECTED),
    Row(_S.VERIFYING, Failed, _M._is_fatal, _M._fail, _S.ENDED),
    Row(_S.VERIFYING, Failed, _M._is_exhausted, _M._exhaust, _S.ENDED),
    Row(_S.VERIFYING, Failed, _M._always, _M._retry, _S.WAITING),
    Row(_S.VERIFYING, Closed, _M._always, _M._drop, _S.ENDED),
    Row(_S.REOPENING, Opened, _M._always, _M._deliver, _S.CONNECTED),
    Row(_S.REOPENING, Failed, _M._is_fatal, _M._fail, _S.ENDED),
    Row(_S.REOPENING, Failed, _M._is_exhausted, _M._exhaust, _S.ENDED),
    Row(_S.REOPENING, Failed, _M._always, _M._retry, _S.WAITING),
    Row(_S.REOPENING, Closed, _M._always, _M._stop, _S.ENDED),
    Row(_S.CONNECTED, Left, _M._always, _M._settle, _S.IDLE),
    Row(_S.CONNECTED, Closed, _M._always, _M._drop, _S.ENDED),
    Row(_S.ENDED, Asked, _M._always, _M._stop, _S.ENDED),
    Row(_S.ENDED, Left, _M._always, _M._nothing, _S.ENDED),
    Row(_S.ENDED, Closed, _M._always, _M._nothing, _S.ENDED),
)


def diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> IDLE"]
    lines += [f"    {state.name}: {state.name}<br>{state.value}" for state in State]
    for row in TABLE:
        condition = f" [{row.when.__doc__}]" if row.when.__doc__ else ""
        lines.append(f"    {row.state.name} --> {row.to.name}: {row.input.__name__}{condition}")
    return "\n".join(lines) + "\n"
