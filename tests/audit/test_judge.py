"""The judge is pure, and its laws hold for any observations: no pass without proof, and the worst decides."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from tailbite.audit import trap
from tailbite.audit.judge import judge, meets
from tailbite.audit.records import Allocator, BindAttempt, Client, Ending, Observation, Recovery, SelfConnect
from tailbite.audit.report.data import verdict_as_data
from tailbite.audit.verdict import Verdict, Word

CLIENT = Client("x", ("x", "{port}"))
RANKS = (Word.IMMUNE, Word.ABORTS, Word.BLOCKS, Word.HOLDS)
PHASE = trap.phase("127.0.0.1", Allocator.CONNECT)

seconds = st.floats(0, 20, allow_nan=False)


@st.composite
def self_connects(draw: st.DrawFn) -> SelfConnect:
    ending = draw(st.sampled_from(Ending))
    start = draw(seconds)
    end = None if ending is Ending.OPEN else start + draw(seconds)
    return SelfConnect(start, end, ending, "127.0.0.1", draw(st.integers(0, 1000)))


@st.composite
def observations(draw: st.DrawFn, hits: st.SearchStrategy[list[SelfConnect]] | None = None) -> Observation:
    found = draw(hits if hits is not None else st.lists(self_connects(), max_size=3))
    return Observation(
        phase=trap.phase(draw(st.sampled_from(["127.0.0.1", "::1"])), draw(st.sampled_from(Allocator))),
        control=bool(found) or draw(st.booleans()),
        duration=draw(seconds),
        dials=len(found) + draw(st.integers(0, 5)),
        self_connects=tuple(found),
        counted=draw(st.none() | st.integers(0, 3)),
        lost_packets=draw(st.integers(0, 2)),
        held_at_end=draw(st.booleans()),
        bind=draw(st.none() | st.builds(BindAttempt, seconds, st.booleans(), st.booleans())),
        exit_status=draw(st.none() | st.sampled_from([0, 1, -11])),
        echoed=draw(st.booleans()),
        succeeded=draw(st.booleans()),
        failed=draw(st.booleans()),
    )


seen = st.lists(observations(), max_size=5)


@given(seen)
def test_immune_needs_a_dial_a_trap_that_sprang_and_a_complete_record(watched: list[Observation]) -> None:
    if judge(CLIENT, watched).verdict is Word.IMMUNE:
        assert any(o.dials for o in watched)
        assert all(o.control and not o.self_connects and not o.lost_packets and not o.counted for o in watched)


@given(seen)
def test_one_self_connect_is_enough_for_not_being_immune(watched: list[Observation]) -> None:
    verdict = judge(CLIENT, watched)
    assert (verdict.verdict in RANKS[1:]) == any(o.self_connects for o in watched)


@given(seen, st.randoms())
def test_the_order_of_the_phases_does_not_matter(watched: list[Observation], random: object) -> None:
    mixed = list(watched)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    one, other = judge(CLIENT, watched), judge(CLIENT, mixed)
    assert (one.verdict, one.believed, one.left, one.self_connects) == (
        other.verdict,
        other.believed,
        other.left,
        other.self_connects,
    )


@given(seen.filter(bool), seen.filter(bool))
def test_the_worst_phase_decides(some: list[Observation], more: list[Observation]) -> None:
    words = [judge(CLIENT, part).verdict for part in (some, more)]
    both = judge(CLIENT, some + more).verdict
    known = [word for word in words if word in RANKS[1:]]
    if known:
        assert both is max(known, key=RANKS.index)


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


def one(ending: Ending, lasted: float | None, *, plain: bool = True, held: bool = False) -> Verdict:
    hit = SelfConnect(0.1, None if lasted is None else 0.1 + lasted, ending, "127.0.0.1", 0)
    watched = Observation(
        PHASE, control=True, duration=3.0, dials=1, self_connects=(hit,), held_at_end=held,
        bind=BindAttempt(3.0, plain, plain),
    )  # fmt: skip
    return judge(CLIENT, [watched])


def test_a_second_is_the_line_between_aborting_and_holding() -> None:
    assert one(Ending.RESET, 0.99).verdict is Word.ABORTS
    assert one(Ending.RESET, 1.2).verdict is Word.HOLDS
    assert one(Ending.CLOSED, 0.01, plain=False).verdict is Word.BLOCKS
    assert one(Ending.CLOSED, 2.0, plain=False).verdict is Word.BLOCKS
    assert one(Ending.OPEN, None, plain=False, held=True).verdict is Word.HOLDS


def test_what_a_server_can_do_counts_more_than_how_the_connection_ended() -> None:
    assert one(Ending.CLOSED, 0.01, plain=True).verdict is Word.ABORTS


def test_nothing_seen_is_no_pass() -> None:
    for watched in ([], [Observation(PHASE, control=True, duration=1.0)]):
        assert judge(CLIENT, watched).verdict is Word.UNEXERCISED
    broken = Observation(PHASE, control=False, duration=0.0, dials=3)
    assert judge(CLIENT, [broken]).verdict is Word.INCONCLUSIVE


def test_127_means_unsupported_whatever_else_was_seen() -> None:
    assert judge(CLIENT, [Observation(PHASE, True, 1.0, dials=2, exit_status=127)]).verdict is Word.UNSUPPORTED


def test_recovery_figures_come_from_the_recovery_phase_and_it_is_not_judged() -> None:
    recovery = Recovery(0.5, 61.0, 61.1, 61.2, 63.0, 64.0)
    watched = [
        Observation(PHASE, True, 1.0, dials=1),
        Observation(
            PHASE,
            True,
            65.0,
            dials=9,
            self_connects=(SelfConnect(0, None, Ending.OPEN, "::1", 5),),
            recovery=recovery,
        ),
    ]
    verdict = judge(CLIENT, watched)
    assert verdict.verdict is Word.IMMUNE
    assert (verdict.server_down_plain, verdict.server_down_reuse, verdict.recovered_after) == (61.0, 61.1, 63.0)
    assert verdict.server_down is None


def test_only_the_words_on_self_connects_can_meet_a_requirement() -> None:
    assert [word for word in Word if meets(word, Word.IMMUNE)] == [Word.IMMUNE]
    assert [word for word in Word if meets(word, Word.ABORTS)] == [Word.IMMUNE, Word.ABORTS]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), min_size=9, max_size=9),
    st.booleans(),
    st.booleans(),
)
def test_every_audit_ends_after_at_most_seven_different_traps(
    course: list[tuple[int, bool, bool]], quick: bool, has_ipv6: bool
) -> None:
    done: list[Observation] = []
    while (where := trap.next_phase(done, quick=quick, has_ipv6=has_ipv6)) is not None:
        dials, hit, running = course[len(done)]
        hits = (SelfConnect(0, None, Ending.OPEN, where.host, 0),) if hit and dials else ()
        done.append(
            Observation(where, True, 1.0, dials=dials, self_connects=hits, exit_status=None if running else 1)
        )
        assert len(done) <= 7
    names = [o.phase.name for o in done]
    assert len(set(names)) == len(names)
    assert names[0] == "connect-127.0.0.1"
    if done[0].dials and not (quick and done[0].self_connects):
        assert names[1] == "bind-127.0.0.1"
    assert has_ipv6 or not any(o.phase.host == "::1" for o in done)
