"""The judge is pure, and its laws hold for any observations: no pass without proof, and the worst decides."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.audit import trap
from tailbite.audit.client import Client
from tailbite.audit.judge import judge, meets
from tailbite.audit.records import (
    COMEBACKS,
    Allocator,
    BindAttempt,
    Claim,
    ConnectionToItself,
    Ending,
    Observation,
    Recovery,
)
from tailbite.audit.report.data import verdict_as_data
from tailbite.audit.verdict import Figure, Remains, Timing, Verdict, Word
from tailbite.cli.schema import read_schema

DOCUMENT: Any = import_module("jsonschema").Draft202012Validator(json.loads(read_schema("audit")))
CLIENT = Client("x", ("x", "{port}"))
RANKS = (Word.IMMUNE, Word.ABORTS, Word.BLOCKS, Word.HOLDS)
PHASE = trap.phase("127.0.0.1", Allocator.CONNECT)

seconds = st.floats(0, 20, allow_nan=False)


@st.composite
def self_connects(draw: st.DrawFn) -> ConnectionToItself:
    ending = draw(st.sampled_from(Ending))
    start = draw(seconds)
    end = None if ending is Ending.OPEN else start + draw(seconds)
    return ConnectionToItself(start, end, ending, "127.0.0.1", draw(st.integers(0, 1000)))


@st.composite
def observations(draw: st.DrawFn, hits: st.SearchStrategy[list[ConnectionToItself]] | None = None) -> Observation:
    found = draw(hits if hits is not None else st.lists(self_connects(), max_size=3))
    dials = len(found) + draw(st.integers(0, 5))
    return Observation(
        phase=trap.phase(draw(st.sampled_from(["127.0.0.1", "::1"])), draw(st.sampled_from(Allocator))),
        control=bool(found) or draw(st.booleans()),
        duration=draw(seconds),
        dials=dials,
        self_connects=tuple(found),
        counted=draw(st.none() | st.integers(0, 3)),
        lost_packets=draw(st.integers(0, 2)),
        held_at_end=draw(st.booleans()),
        bind=draw(st.none() | st.builds(BindAttempt, seconds, st.booleans(), st.booleans())),
        rounds=draw(st.integers(min(1, dials), 4)),
        had_to_come_back=draw(st.booleans()),
        is_gone=draw(st.booleans()),
        served=draw(st.booleans()),
        exit_status=draw(st.none() | st.sampled_from([0, 1, -11])),
        was_single=draw(st.booleans()),
        echoed=draw(st.booleans()),
        claims=draw(st.lists(st.builds(Claim, st.booleans(), st.sampled_from(["a", "b"])), max_size=3).map(tuple)),
    )


seen = st.lists(observations(), max_size=5)


@given(seen)
def test_immune_needs_a_dial_a_working_trap_a_complete_record_and_comebacks(watched: list[Observation]) -> None:
    if judge(CLIENT, watched).verdict is Word.IMMUNE:
        proofs = [o for o in watched if o.dials and not o.served]
        assert proofs
        assert all(o.control and not o.self_connects for o in watched)
        assert not any(o.lost_packets or o.counted for o in proofs)
        assert all(o.is_gone or o.rounds >= COMEBACKS or not o.had_to_come_back for o in proofs)


@given(seen)
def test_one_self_connect_is_enough_for_not_being_immune(watched: list[Observation]) -> None:
    verdict = judge(CLIENT, watched)
    if any(o.self_connects for o in watched):
        assert verdict.verdict in (*RANKS[1:], Word.INCONCLUSIVE)
    else:
        assert verdict.verdict not in RANKS[1:]


@given(seen, st.randoms())
def test_the_order_of_the_phases_does_not_matter(watched: list[Observation], random: object) -> None:
    mixed = list(watched)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    first, second = judge(CLIENT, watched), judge(CLIENT, mixed)
    assert (first.verdict, first.believed, first.left, first.self_connects) == (
        second.verdict,
        second.believed,
        second.left,
        second.self_connects,
    )


@given(seen.filter(bool), seen.filter(bool))
def test_the_worst_phase_decides(some: list[Observation], more: list[Observation]) -> None:
    words = [judge(CLIENT, part).verdict for part in (some, more)]
    both = judge(CLIENT, some + more).verdict
    known = [word for word in words if word in RANKS[1:]]
    if known and (worst := max(known, key=RANKS.index)) is not Word.ABORTS:
        assert both is worst
    elif known:
        assert both in (Word.ABORTS, Word.INCONCLUSIVE)


@given(seen)
def test_aborts_needs_comebacks_as_well(watched: list[Observation]) -> None:
    if judge(CLIENT, watched).verdict is Word.ABORTS:
        dialled = [o for o in watched if o.dials and not o.served and o.had_to_come_back]
        assert all(o.is_gone or o.rounds >= COMEBACKS for o in dialled)
        assert all(o.control for o in watched)


@given(seen)
def test_figures_are_what_was_seen(watched: list[Observation]) -> None:
    verdict = judge(CLIENT, watched)
    hits = [hit for o in watched for hit in o.self_connects]
    assert verdict.self_connects >= len(hits)
    assert verdict.bytes_to_itself == sum(hit.sent for hit in hits)
    assert (verdict.longest_hold is None) == (not hits)
    assert (verdict.left is None) == (not hits)
    assert verdict.reason
    assert "\n" not in verdict.reason


@given(seen)
def test_a_verdict_survives_pickling_and_has_a_json_form(watched: list[Observation]) -> None:
    verdict = judge(CLIENT, watched)
    assert pickle.loads(pickle.dumps(verdict)) == verdict
    data = verdict_as_data(verdict)
    assert data["verdict"] == verdict.verdict.value
    assert len(data["phases"]) == len(watched)
    DOCUMENT.validate({"schema": "tailbite.audit/2", "require": "immune", "not_audited": [], "clients": [data]})


def judged_once(ending: Ending, lasted: float | None, *, plain: bool = True, hold: float = 3.0) -> Verdict:
    hit = ConnectionToItself(0.1, None if lasted is None else 0.1 + lasted, ending, "127.0.0.1", 0)
    watched = Observation(
        PHASE, control=True, duration=3.0, watched_hold=hold, dials=1, self_connects=(hit,),
        bind=BindAttempt(3.0, plain, plain),
    )  # fmt: skip
    return judge(CLIENT, [watched])


@pytest.mark.parametrize(
    ("ending", "lasted", "plain", "word"),
    [
        (Ending.RESET, 0.01, True, Word.ABORTS),
        (Ending.RESET, 0.999, True, Word.ABORTS),
        (Ending.RESET, 1.001, True, Word.ABORTS),
        (Ending.RESET, 1.3, True, Word.ABORTS),
        (Ending.RESET, 2.0, True, Word.BLOCKS),
        (Ending.CLOSED, 0.01, False, Word.BLOCKS),
        (Ending.CLOSED, 0.999, False, Word.BLOCKS),
        (Ending.CLOSED, 1.001, False, Word.BLOCKS),
        (Ending.CLOSED, 1.3, False, Word.BLOCKS),
        (Ending.CLOSED, 2.0, False, Word.HOLDS),
        (Ending.CLOSED, 0.01, True, Word.ABORTS),
        (Ending.OPEN, None, False, Word.HOLDS),
    ],
)
def test_the_word_follows_the_time_for_which_a_server_is_down(
    ending: Ending, lasted: float | None, plain: bool, word: Word
) -> None:
    assert judged_once(ending, lasted, plain=plain).verdict is word


@given(st.floats(0, 100), st.sampled_from([Ending.CLOSED, Ending.RESET]))
def test_fin_is_never_better_than_rst_and_longer_is_never_better_than_shorter(held: float, ending: Ending) -> None:
    def rank(ending: Ending, held: float) -> int:
        return RANKS.index(judged_once(ending, held, plain=ending is Ending.RESET, hold=1000).verdict)

    assert rank(Ending.RESET, held) <= rank(Ending.CLOSED, held)
    assert rank(ending, held) <= rank(ending, held + 1)


def test_an_end_that_was_seen_by_chance_after_the_watch_does_not_change_the_word() -> None:
    for ending in (Ending.CLOSED, Ending.RESET):
        verdict = judged_once(ending, 1.9, hold=1.8)
        assert verdict.verdict is Word.HOLDS
        assert "as long as it was watched (1.9 s)" in verdict.reason


def test_a_connection_that_was_seen_too_briefly_has_no_class() -> None:
    hit = ConnectionToItself(2.7, None, Ending.OPEN, "127.0.0.1", 0)
    verdict = judge(CLIENT, [Observation(PHASE, True, 3.0, dials=2, self_connects=(hit,))])
    assert verdict.verdict is Word.INCONCLUSIVE
    assert (
        verdict.reason
        == "it connected to itself 300.0 ms before the watch ended: too late to see what it does after that"
    )


def test_a_client_that_runs_on_is_not_immune_before_it_came_back() -> None:
    def running(rounds: int, *, is_gone: bool = False, had_to: bool = True) -> Verdict:
        return judge(CLIENT, [Observation(
            PHASE, True, 136.0, dials=rounds, dialled=(1.0,), rounds=rounds, had_to_come_back=had_to, is_gone=is_gone
        )])  # fmt: skip

    assert running(1).verdict is Word.INCONCLUSIVE
    assert "dialled once and was still running 135 s later: its reconnects were not seen" in running(1).reason
    assert "dialled twice" in running(2).reason
    assert running(1).comebacks == 0
    assert running(COMEBACKS).verdict is Word.IMMUNE
    assert running(COMEBACKS).comebacks == COMEBACKS - 1
    assert running(1, is_gone=True).verdict is Word.IMMUNE
    assert running(1, is_gone=True).comebacks is None


def test_a_client_that_reset_its_first_connection_is_not_aborting_before_it_came_back() -> None:
    hit = ConnectionToItself(1.0, 1.01, Ending.RESET, "127.0.0.1", 0)
    once = Observation(
        PHASE, True, 136.0, dials=1, dialled=(1.0,), rounds=1, had_to_come_back=True, self_connects=(hit,)
    )
    verdict = judge(CLIENT, [once])
    assert verdict.verdict is Word.INCONCLUSIVE
    assert verdict.reason.startswith("it reset the connection to itself after 10.0 ms")
    assert "its reconnects were not seen" in verdict.reason
    assert judge(CLIENT, [replace(once, rounds=COMEBACKS)]).verdict is Word.ABORTS
    assert judge(CLIENT, [replace(once, is_gone=True)]).verdict is Word.ABORTS
    gone = replace(once, is_gone=True)
    doubtful = judge(CLIENT, [gone, replace(gone, self_connects=(), control=False, trouble="the trap broke")])
    assert (doubtful.verdict, doubtful.reason.endswith("; the trap broke")) == (Word.INCONCLUSIVE, True)


def test_a_trap_that_the_clients_own_listener_took_proves_nothing() -> None:
    served = Observation(PHASE, True, 3.0, dials=5, rounds=5, served=True, counted=5)
    assert judge(CLIENT, [served]).verdict is Word.UNEXERCISED
    good = Observation(PHASE, True, 3.0, dials=1, rounds=1, is_gone=True)
    assert judge(CLIENT, [served, good]).verdict is Word.IMMUNE


def test_a_record_that_is_not_complete_is_no_pass() -> None:
    good = Observation(PHASE, True, 3.0, dials=1, rounds=1, is_gone=True)
    for lacking in (replace(good, lost_packets=2), replace(good, counted=1)):
        verdict = judge(CLIENT, [lacking])
        assert verdict.verdict is Word.INCONCLUSIVE, lacking
        assert "packets" in verdict.reason


def test_nothing_seen_is_no_pass() -> None:
    for watched in ([], [Observation(PHASE, control=True, duration=1.0)]):
        assert judge(CLIENT, watched).verdict is Word.UNEXERCISED
    broken = Observation(PHASE, control=False, duration=0.0, dials=3)
    assert judge(CLIENT, [broken]).verdict is Word.INCONCLUSIVE


def test_127_means_unsupported_but_not_of_a_client_that_dialled() -> None:
    silent = Observation(PHASE, True, 1.0, exit_status=127, is_gone=True)
    assert judge(CLIENT, [silent]).verdict is Word.UNSUPPORTED
    assert judge(CLIENT, [silent]).reason == "it exited with status 127"
    assert judge(CLIENT, [replace(silent, trouble="cannot run x: no")]).reason == "cannot run x: no"
    # Its shell may have lacked another program afterwards.
    assert judge(CLIENT, [replace(silent, dials=1, rounds=1)]).verdict is Word.IMMUNE
    hit = ConnectionToItself(0.1, None, Ending.OPEN, "127.0.0.1", 0)
    held = replace(silent, duration=3.0, dials=1, self_connects=(hit,))
    assert judge(CLIENT, [held]).verdict is Word.HOLDS


def test_recovery_figures_come_from_the_recovery_phase_and_it_is_not_judged() -> None:
    recovery = Recovery(0.5, 61.0, 61.1, 61.2, 63.0, 64.0)
    watched = [
        Observation(PHASE, True, 1.0, dials=1),
        Observation(
            PHASE,
            True,
            65.0,
            dials=9,
            self_connects=(ConnectionToItself(0, None, Ending.OPEN, "::1", 5),),
            recovery=recovery,
        ),
    ]
    verdict = judge(CLIENT, watched)
    assert verdict.verdict is Word.IMMUNE
    told = (verdict.server_down_plain, verdict.server_down_reuse, verdict.recovered_after)
    assert [timing.seconds for timing in told] == [61.0, 61.1, 63.0]
    assert {timing.outcome for timing in told} == {Figure.MEASURED}
    assert verdict.server_down.outcome is Figure.NOT_ASKED


def timings(recovery: Recovery | None, *, asked: bool = True, trouble: str | None = None) -> list[Timing]:
    watched = [Observation(PHASE, True, 1.0, dials=1, is_gone=True)]
    if recovery or trouble:
        phase = replace(PHASE, name="connect-127.0.0.1-recovery")
        watched.append(Observation(phase, trouble is None, 65.0, recovery=recovery, trouble=trouble))
    verdict = judge(CLIENT, watched, recovery_asked=asked)
    assert verdict.verdict is Word.IMMUNE
    return [verdict.server_down_plain, verdict.server_down_reuse, verdict.server_down, verdict.recovered_after]


def test_not_asked_not_measured_never_and_longer_than_the_patience_are_four_things() -> None:
    assert {timing.outcome for timing in timings(None, asked=False)} == {Figure.NOT_ASKED}
    assert set(timings(None)) == {Timing(Figure.NOT_MEASURED, reason="the client did not dial the port")}
    assert set(timings(None, trouble="no trap")) == {Timing(Figure.NOT_MEASURED, reason="no trap")}
    patient = Recovery(0.5, None, 3.0, 3.0, None, 75.0)
    longer = Timing(Figure.LONGER, 75.0)
    assert timings(patient) == [longer, Timing(Figure.MEASURED, 3.0), Timing(), longer]
    gone = replace(patient, client_gone=True)
    assert timings(gone)[3] == Timing(Figure.NEVER, reason="the client had ended")
    real = timings(replace(patient, real_server=True, served_after=4.0))
    assert [timing.outcome for timing in real] == [
        Figure.NOT_MEASURED, Figure.NOT_MEASURED, Figure.MEASURED, Figure.LONGER
    ]  # fmt: skip


def test_only_the_words_on_self_connects_can_meet_a_requirement() -> None:
    assert [word for word in Word if meets(word, Word.IMMUNE)] == [Word.IMMUNE]
    assert [word for word in Word if meets(word, Word.ABORTS)] == [Word.IMMUNE, Word.ABORTS]


def test_the_worst_remains_and_the_dials_that_a_hit_took_are_told() -> None:
    sixteen = trap.phase("127.0.0.1", Allocator.CONNECT, ports=16)
    hits = tuple(
        ConnectionToItself(at, at + 0.01, ending, "127.0.0.1", 0)
        for at, ending in ((3.0, Ending.RESET), (4.0, Ending.CLOSED))
    )
    seen = Observation(sixteen, True, 6.0, dials=9, dialled=(1.0, 2.0, 3.0, 4.0), self_connects=hits[:1])
    assert judge(CLIENT, [seen]).left is Remains.NOTHING
    assert judge(CLIENT, [seen]).dials_to_hit == 3
    assert judge(CLIENT, [replace(seen, self_connects=hits)]).left is Remains.TIME_WAIT
    lossy = replace(seen, lost_packets=1, counted=7)
    assert judge(CLIENT, [lossy]).self_connects == 7
