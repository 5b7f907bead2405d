"""The reconnecting state machine, without a socket and without a clock."""

from __future__ import annotations

import itertools
import math
import pickle
import random
from pathlib import Path

import pytest

from support.machines import NO_JITTER, REFUSED, TARGET, Anything, machine
from tailbite.core.address import Endpoint
from tailbite.core.backoff import Backoff, Policy
from tailbite.errors import GaveUpError, SelfConnectError, VerifyError
from tailbite.reconnect import events, messages
from tailbite.reconnect.machine import TABLE, Machine, Settings, ShellError, State, diagram
from tailbite.reconnect.messages import Asked, Closed, Failed, Left, Opened, PeerVerified, Renewed, Slept


def kinds(effects: list[messages.Effect]) -> list[str]:
    return [type(effect.event if isinstance(effect, messages.Emit) else effect).__name__ for effect in effects]


def slept(effects: list[messages.Effect]) -> float:
    return next(effect.seconds for effect in effects if isinstance(effect, messages.Sleep))


def raised(effects: list[messages.Effect]) -> BaseException:
    return next(effect.error for effect in effects if isinstance(effect, messages.Raise))


def test_a_connection_is_asked_for_opened_and_delivered() -> None:
    loop = machine()
    assert kinds(loop.feed(Asked(0))) == ["Attempting", "Open"]
    effects = loop.feed(Opened(0.5, "127.0.0.1:40000", "127.0.0.1:5432"))
    assert effects[0] == messages.Emit(events.Connected(TARGET, 0.5, 1, 0.5, "127.0.0.1:40000", "127.0.0.1:5432"))
    assert effects[1:] == [messages.Deliver()]
    assert loop.feed(Left(9, None)) == [messages.Emit(events.Lost(TARGET, 9, 8.5, None))]
    assert loop.state is State.IDLE


def test_the_wait_grows_with_every_refusal_up_to_the_maximum() -> None:
    loop, waits = machine(), []
    effects = loop.feed(Asked(0))
    for _ in range(6):
        assert kinds(effects)[-2:] == ["Attempting", "Open"]
        effects = loop.feed(Failed(0, REFUSED, True))
        assert kinds(effects) == ["Refused", "Waiting", "Sleep"]
        waits.append(slept(effects))
        effects = loop.feed(Slept(0))
    assert waits == [1, 2, 4, 8, 8, 8]


def test_accepting_and_closing_at_once_is_no_hot_loop() -> None:
    """The waits grow until a connection has lasted healthy_after seconds (the very first one ends its outage)."""
    loop, waits, now = machine(healthy_after=5.0), [], 0.0
    for lasted in (0, 0, 0, 4.9, 5.0, 0):
        if (effects := loop.feed(Asked(now)))[-1] != messages.Open(10.0):
            waits.append(slept(effects))
            now += waits[-1]
            loop.feed(Slept(now))
        loop.feed(Opened(now, "", ""))
        now += lasted
        loop.feed(Left(now, None))
    assert waits == pytest.approx([1, 2, 4, 8, 1])


def test_a_wait_that_the_user_spent_elsewhere_is_not_waited_again() -> None:
    loop = machine()
    loop.feed(Asked(0))
    loop.feed(Opened(0, "", ""))
    loop.feed(Left(10, None))
    assert kinds(loop.feed(Asked(10.9))) == ["Waiting", "Sleep"]
    loop = machine()
    loop.feed(Asked(0))
    loop.feed(Opened(0, "", ""))
    loop.feed(Left(10, None))
    assert kinds(loop.feed(Asked(11))) == ["Attempting", "Open"]


def test_a_verifier_comes_before_connected() -> None:
    loop = machine(verifier=Anything())
    loop.feed(Asked(0))
    assert loop.feed(Opened(1, "a", "b")) == [messages.Verify(3.0)]
    effects = loop.feed(PeerVerified(1.5))
    assert kinds(effects) == ["Verified", "Connected", "Deliver"]
    assert effects[0] == messages.Emit(events.Verified(TARGET, 1.5, 1, 0.5, "anything"))


def test_a_spent_connection_is_dropped_and_another_one_delivered() -> None:
    loop = machine(verifier=Anything(spends=True))
    loop.feed(Asked(0))
    loop.feed(Opened(1, "a", "b"))
    assert kinds(loop.feed(PeerVerified(2))) == ["Verified", "Drop", "Open"]
    assert kinds(loop.feed(Opened(3, "c", "b"))) == ["Connected", "Deliver"]
    loop.feed(Left(4))
    loop.feed(Asked(9))
    loop.feed(Opened(9, "a", "b"))
    loop.feed(PeerVerified(9))
    assert kinds(loop.feed(Failed(9, REFUSED, True))) == ["Refused", "Waiting", "Sleep"]


def test_a_refused_peer_is_dropped_before_the_wait() -> None:
    loop = machine(verifier=Anything())
    loop.feed(Asked(0))
    loop.feed(Opened(0, "a", "b"))
    effects = loop.feed(Failed(3, VerifyError("silent", "it said nothing"), True))
    assert kinds(effects) == ["Drop", "VerifyFailed", "Waiting", "Sleep"]


def test_a_self_connect_is_an_event_of_its_own_and_transient() -> None:
    loop = machine()
    loop.feed(Asked(0))
    here = Endpoint("127.0.0.1", 5432)
    assert kinds(loop.feed(Failed(0, SelfConnectError(here, here), True))) == ["SelfConnected", "Waiting", "Sleep"]


def test_max_attempts_carries_every_attempt() -> None:
    loop = machine(Policy(NO_JITTER, max_attempts=3))
    loop.feed(Asked(0))
    for now in (1, 2):
        loop.feed(Failed(now, REFUSED, True))
        loop.feed(Slept(now))
    effects = loop.feed(Failed(3, TimeoutError("timed out"), True))
    assert kinds(effects) == ["Refused", "GaveUp", "Raise"]
    error = raised(effects)
    assert isinstance(error, GaveUpError)
    assert isinstance(error, ConnectionError)
    assert isinstance(error.__cause__, TimeoutError)
    assert [attempt.error for attempt in error.attempts[:2]] == [REFUSED, REFUSED]
    assert str(error) == ("gave up on db:5432 after 3 attempts in 3.0 s (max_attempts is 3); the last one: timed out")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert kinds(loop.feed(Asked(4))) == ["Stop"]


def test_the_errno_of_the_last_attempt_is_the_errors() -> None:
    loop = machine(Policy(NO_JITTER, max_attempts=1))
    loop.feed(Asked(0))
    error = raised(loop.feed(Failed(0, REFUSED, True)))
    assert isinstance(error, GaveUpError)
    assert error.errno == 111


def test_the_last_attempt_begins_shortly_before_the_deadline() -> None:
    loop = machine(Policy(NO_JITTER, deadline=4.0))
    loop.feed(Asked(100))
    assert loop.feed(Slept(loop_failed(loop, 100)))[-1] == messages.Open(3.0)  # 4 - the first wait
    assert slept(loop.feed(Failed(102.5, REFUSED, True))) == pytest.approx(1.3)  # the backoff says 2
    (last,) = [each for each in loop.feed(Slept(103.8)) if isinstance(each, messages.Open)]
    assert last.timeout == pytest.approx(0.2)
    assert "the deadline is 4 s" in str(raised(loop.feed(Failed(103.9, REFUSED, True))))


def random_outage(deadline: float, took: float, seed: int) -> float:
    """Return when a loop gives up whose server always refuses, with the default delays, under a virtual clock."""
    policy = Policy(Backoff(draw=random.Random(seed).random), deadline=deadline)
    loop, now = machine(policy), 0.0
    effects = loop.feed(Asked(now))
    while True:
        match effects[-1]:
            case messages.Open(timeout):
                now += min(took, timeout)
                effects = loop.feed(Failed(now, REFUSED, True))
            case messages.Sleep(seconds):
                now += seconds
                effects = loop.feed(Slept(now))
            case messages.Raise():
                return now


@pytest.mark.parametrize(
    ("runs", "deadline", "took", "earliest"),
    [
        (4000, 30, 0.001, 29.75),
        (300, 0.1, 0.001, 0.095),
        (300, 1, 0.0, 0.95),
        (300, 3, 0.3, 2.85),
        (300, 120, 5, 119.75),
    ],
)
def test_a_deadline_uses_its_whole_time(runs: int, deadline: float, took: float, earliest: float) -> None:
    ends = [random_outage(deadline, took, seed) for seed in range(runs)]
    assert min(ends) >= earliest - 1e-6
    assert max(ends) <= deadline + 1e-6


def test_a_deadline_counts_from_the_moment_a_connection_is_asked_for() -> None:
    loop = machine(Policy(NO_JITTER, deadline=4.0))
    loop.feed(Asked(0))
    loop.feed(Opened(0, "", ""))
    loop.feed(Left(10, None))
    assert loop.feed(Asked(5000))[-1] == messages.Open(4.0)
    assert kinds(loop.feed(Failed(5000, REFUSED, True)))[-1] == "Sleep"


@pytest.mark.parametrize("policy", [Policy(NO_JITTER, deadline=1.0), Policy(lambda: iter(()), deadline=1.0)])
def test_an_outage_has_one_attempt_at_least(policy: Policy) -> None:
    """Also when the first delay is as long as the deadline, or when the backoff has no delays."""
    loop = machine(policy)
    loop.feed(Asked(0))
    loop.feed(Opened(0, "", ""))
    loop.feed(Left(10, None))
    effects = loop.feed(Asked(10))
    if policy.backoff is NO_JITTER:
        assert slept(effects) == pytest.approx(0.95)
        effects = loop.feed(Slept(10.95))
    assert kinds(effects)[-1] == "Open"
    assert kinds(loop.feed(Failed(10.97, REFUSED, True)))[-1] == "Raise"


@pytest.mark.parametrize("later", [None, Policy(NO_JITTER, max_attempts=2)])
def test_a_loop_that_gave_up_can_begin_a_new_outage_with_its_policy(later: Policy | None) -> None:
    """The policy ``first`` until the first connection, then the later one."""
    loop = machine(later, first=Policy(NO_JITTER, max_attempts=1))
    most = 1
    if later is not None:
        loop.feed(Asked(0))
        loop.feed(Opened(0, "", ""))
        loop.feed(Left(100, None))
        most = 2
    for start in (1000, 2000):
        effects = loop.feed(Asked(start))
        for _ in range(most - 1):
            if later is not None and kinds(effects)[-1] == "Sleep":
                effects = loop.feed(Slept(start))
            assert kinds(loop.feed(Failed(start, REFUSED, True)))[-1] == "Sleep"
            effects = loop.feed(Slept(start))
        assert kinds(loop.feed(Failed(start, REFUSED, True)))[-1] == "Raise"
        assert kinds(loop.feed(Asked(start))) == ["Stop"]
        assert loop.feed(Renewed(start)) == []
        assert loop.state is State.IDLE
        assert loop.number == 0


def loop_failed(loop: Machine, now: float) -> float:
    return now + slept(loop.feed(Failed(now, REFUSED, True)))


def test_a_backoff_that_ends_gives_up() -> None:
    loop = machine(Policy(lambda: iter([0.0, 0.0])))
    loop.feed(Asked(0))
    for _ in range(2):
        assert slept(loop.feed(Failed(0, REFUSED, True))) == 0
        loop.feed(Slept(0))
    assert "the backoff has no more delays" in str(raised(loop.feed(Failed(0, REFUSED, True))))


@pytest.mark.parametrize("delay", [-1.0, math.inf, math.nan])
def test_a_backoff_with_an_impossible_delay_is_told_so(delay: float) -> None:
    loop = machine(Policy(lambda: itertools.repeat(delay)))
    loop.feed(Asked(0))
    with pytest.raises(ValueError, match="finite number of seconds"):
        loop.feed(Failed(0, REFUSED, True))


def test_a_fatal_error_ends_the_loop_with_itself() -> None:
    for verifier in (None, Anything()):
        loop = machine(verifier=verifier)
        loop.feed(Asked(0))
        if verifier is not None:
            loop.feed(Opened(0, "", ""))
        error = PermissionError(13, "Permission denied")
        effects = loop.feed(Failed(0, error, False))
        assert raised(effects) is error
        assert kinds(effects)[-2:] == ["GaveUp", "Raise"]
        assert ("Drop" in kinds(effects)) == (verifier is not None)


def test_the_first_connection_has_a_policy_of_its_own() -> None:
    loop = machine(first=Policy(max_attempts=1))
    loop.feed(Asked(0))
    assert kinds(loop.feed(Failed(0, REFUSED, True)))[-1] == "Raise"
    loop = machine(first=Policy(max_attempts=1))
    loop.feed(Asked(0))
    loop.feed(Opened(0, "", ""))
    loop.feed(Left(0, REFUSED))
    loop.feed(Asked(1))
    for _ in range(100):
        assert kinds(loop.feed(Failed(1, REFUSED, True)))[-1] == "Sleep"
        loop.feed(Slept(1))


def test_short_connections_use_up_the_attempts_too() -> None:
    loop = machine(Policy(NO_JITTER, max_attempts=2))
    loop.feed(Asked(0))
    loop.feed(Opened(0, "", ""))
    now = 0.0
    for _ in range(3):
        loop.feed(Left(now, None))
        effects = loop.feed(Asked(now))
        if "Raise" in kinds(effects):
            break
        now += 10
        loop.feed(Slept(now))
        loop.feed(Opened(now, "", ""))
    error = raised(effects)
    assert "ended soon, without an error" in str(error)
    assert isinstance(error, GaveUpError)
    assert error.total == 2


def test_a_loop_without_limits_remembers_the_last_thousand_attempts() -> None:
    fail = itertools.chain(itertools.repeat(0.0, 1500))
    loop = machine(Policy(lambda: fail))
    loop.feed(Asked(0))
    for _ in range(1500):
        loop.feed(Failed(0, REFUSED, True))
        loop.feed(Slept(0))
    error = raised(loop.feed(Failed(0, REFUSED, True)))
    assert isinstance(error, GaveUpError)
    assert (len(error.attempts), error.total) == (1000, 1501)


@pytest.mark.parametrize("state", list(State))
def test_closing_is_possible_in_every_state(state: State) -> None:
    loop = machine(verifier=Anything())
    loop.state = state
    effects = loop.feed(Closed(0))
    assert loop.state is State.ENDED
    expected = {State.VERIFYING: ["Drop", "Stop"], State.CONNECTED: ["Drop", "Lost", "Stop"], State.ENDED: []}
    assert kinds(effects) == expected.get(state, ["Stop"])
    assert loop.feed(Left(0)) == []
    assert kinds(loop.feed(Asked(0))) == ["Stop"]


def test_what_cannot_happen_is_the_shells_mistake() -> None:
    with pytest.raises(ShellError, match=r"Slept\(now=0\) cannot occur while the state is IDLE"):
        machine().feed(Slept(0))


def test_every_state_can_be_reached_and_left_and_no_row_is_hidden() -> None:
    reached = {State.IDLE} | {row.to for row in TABLE}
    assert reached == set(State)
    assert {row.state for row in TABLE} == set(State)
    for (_, _), rows in itertools.groupby(TABLE, lambda row: (row.state, row.input)):
        *conditional, last = rows
        assert last.when is Machine._always
        assert all(row.when is not Machine._always for row in conditional)


def test_the_page_shows_the_live_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "persistent.md").read_text()
    assert f"```mermaid\n{diagram()}```\n" in page


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": 0},
        {"timeout": math.inf},
        {"healthy_after": -1},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Settings(TARGET, **wrong)  # type: ignore[arg-type]
