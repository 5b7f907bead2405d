"""Any life that a network can give the state machine: it leaks no socket, and nothing is delivered unverified."""

from __future__ import annotations

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.machines import NO_JITTER, REFUSED, Anything, machine
from tailbite.core.backoff import Policy
from tailbite.reconnect import events, messages
from tailbite.reconnect.machine import Machine, State
from tailbite.reconnect.messages import Asked, Closed, Failed, Left, Opened, PeerVerified, Renewed, Slept


class AnyLife(RuleBasedStateMachine):
    """A shell that meets everything a network can do, and counts its sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.loop: Machine | None = None
        self.sockets = 0
        self.believed = self.was_delivered = False
        self.pending: list[messages.Effect] = []
        self.waits: list[float] = []

    @precondition(lambda self: self.loop is None)
    @rule(
        spends=st.sampled_from([None, False, True]),
        most=st.none() | st.integers(1, 5),
        deadline=st.none() | st.floats(0.1, 100),
        first=st.none() | st.integers(1, 3),
        healthy=st.floats(0, 20),
    )
    def start(
        self, spends: bool | None, most: int | None, deadline: float | None, first: int | None, healthy: float
    ) -> None:
        self.most = most
        later = Policy(NO_JITTER, most, deadline)
        verifier = None if spends is None else Anything(spends=spends)
        self.loop = machine(
            later, Policy(NO_JITTER, first) if first else None, healthy_after=healthy, verifier=verifier
        )

    def feed(self, happened: messages.Input) -> None:
        assert self.loop is not None
        for effect in self.loop.feed(happened):
            match effect:
                case messages.Drop():
                    assert self.sockets == 1, "dropped what was not there"
                    self.sockets -= 1
                case messages.Open(timeout):
                    assert self.sockets == 0, "two sockets at once"
                    assert 0 <= timeout <= 10 + 1e-6
                case messages.Deliver():
                    assert self.sockets == 1
                    assert self.loop.settings.verifier is None or self.believed, "delivered unverified"
                    self.believed = False
                case messages.Emit(events.Connected()):
                    assert self.loop.settings.verifier is None or self.believed, "Connected before Verified"
                case messages.Emit(events.Verified()):
                    self.believed = True
                case messages.Verify(timeout):
                    assert 0 <= timeout <= 3 + 1e-6
                case messages.Sleep(seconds):
                    assert 0 <= seconds <= 8 + 1e-6, "a wait without bound"  # the delay is now + 8, minus now
                case messages.Raise() | messages.Stop():
                    assert self.sockets == 0, "a socket was leaked"
                    assert self.loop.number <= 10 or self.most is None

    def is_(self, *states: State) -> bool:
        return self.loop is not None and self.loop.state in states

    @precondition(lambda self: self.is_(State.IDLE, State.ENDED))
    @rule(pause=st.floats(0, 20))
    def ask(self, pause: float) -> None:
        self.now += pause
        self.feed(Asked(self.now))

    @precondition(lambda self: self.is_(State.WAITING))
    @rule(late=st.floats(0, 1))
    def sleep(self, late: float) -> None:
        self.now += late
        self.feed(Slept(self.now))

    @precondition(lambda self: self.is_(State.CONNECTING, State.REOPENING))
    @rule(took=st.floats(0, 10))
    def open(self, took: float) -> None:
        self.now += took
        self.sockets += 1
        self.feed(Opened(self.now, "a", "b"))

    @precondition(lambda self: self.is_(State.CONNECTING, State.REOPENING, State.VERIFYING))
    @rule(took=st.floats(0, 10), transient=st.booleans())
    def fail(self, took: float, transient: bool) -> None:
        self.now += took
        self.feed(Failed(self.now, REFUSED, transient))

    @precondition(lambda self: self.is_(State.VERIFYING))
    @rule()
    def believe(self) -> None:
        self.feed(PeerVerified(self.now))

    @precondition(lambda self: self.is_(State.CONNECTED))
    @rule(lasted=st.floats(0, 30))
    def leave(self, lasted: float) -> None:
        self.now += lasted
        self.sockets -= 1
        self.feed(Left(self.now, REFUSED))

    @precondition(lambda self: self.is_(State.ENDED))
    @rule()
    def renew(self) -> None:
        self.feed(Renewed(self.now))

    @precondition(lambda self: self.loop is not None)
    @rule()
    def close(self) -> None:
        self.feed(Closed(self.now))

    @invariant()
    def sockets_are_where_the_state_says(self) -> None:
        if self.loop is not None:
            assert self.sockets == (self.loop.state in (State.VERIFYING, State.CONNECTED))


# The same examples in every run: an example that fails must fail for everybody, and not once a week.
AnyLife.TestCase.settings = hypothesis_settings(
    max_examples=150, stateful_step_count=30, deadline=None, derandomize=True, database=None
)
test_any_life = AnyLife.TestCase
