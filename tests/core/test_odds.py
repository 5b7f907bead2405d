"""The odds: against the search loop written out, against simulated walks, and against each other."""

from __future__ import annotations

import math
import random
import statistics
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tailbite.core.laws import Exact, Independent, Laps, law_of
from tailbite.core.odds import Obstacle, odds
from tailbite.core.ports import PortRange, PortSet
from tailbite.core.selection import Circle, Selection, circle_of

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = PortRange(32768, 60999)
STORY = PortRange(9000, 65500)


@st.composite
def situations(draw: st.DrawFn, most: int = 40) -> tuple[PortRange, PortSet]:
    """A small range, and ports of it that are taken."""
    low = draw(st.integers(1, 65535 - most))
    ports = PortRange(low, low + draw(st.integers(0, most - 1)))
    return ports, PortSet.of(draw(st.lists(st.sampled_from(list(ports)), max_size=len(ports))))


def search(ports: PortRange, taken: PortSet, offset: int, parity: int, step: int = 2) -> tuple[int, int] | None:
    """The kernel's search from one offset, said once more and slowly: (port, how far it walked), or None."""
    remaining = len(ports) & ~1 if step == 2 and len(ports) > 1 else len(ports)
    for turn in (parity, 1 - parity) if step == 2 and len(ports) > 1 else (0,):
        port = ports.low + ((offset & ~1) + turn if step == 2 else offset)
        for walked in range(0, remaining, step):
            while port > ports.high:
                port -= remaining
            if port not in taken:
                return port, walked
            port += step
    return None


@given(situations(), st.data())
def test_a_search_ends_where_the_kernels_loop_ends(situation: tuple[PortRange, PortSet], data: st.DataObject) -> None:
    """connect() and bind(): parity, wrapping, rounding down to even, and the other parity when one is exhausted."""
    ports, taken = situation
    binds_first = data.draw(st.booleans())
    circle = circle_of(ports, taken, binds_first=binds_first)
    slots = max(1, len(ports) // 2)
    wanted = [search(ports, taken, 2 * slot, int(binds_first)) for slot in range(slots)]
    if circle is None:
        assert None in wanted
        return
    assert list(circle.chosen) == [found[0] for found in wanted if found]
    assert [2 * skipped for skipped in circle.skipped] == [found[1] for found in wanted if found]


@given(situations())
def test_a_socket_with_a_range_of_its_own_draws_both_parities(situation: tuple[PortRange, PortSet]) -> None:
    ports, taken = situation
    circle = circle_of(ports, taken, own_range=True)
    if circle is None:
        assert not set(ports) - set(taken)
    else:
        assert set(circle.chosen) == set(ports) - set(taken)


@given(situations())
def test_a_binding_client_that_reuses_addresses_draws_from_the_lower_half(
    situation: tuple[PortRange, PortSet],
) -> None:
    ports, taken = situation
    assume(len(ports) >= 4)
    middle = ports.low + (len(ports) // 4) * 2
    circle = circle_of(ports, taken, binds_first=True, reuse_address=True)
    lower_is_free = set(range(ports.low, middle)) - set(taken)
    if circle is not None and lower_is_free and len(lower_is_free) == middle - ports.low:
        assert max(circle.chosen) < middle


def walk(circle: Circle, generator: random.Random) -> Iterator[int]:
    """Draw ports as the kernel does, forever."""
    slot = generator.randrange(len(circle))
    while True:
        yield circle.chosen[slot]
        if circle.strides:
            slot += max(circle.skipped[slot], generator.randrange(circle.strides)) + 1
        else:
            slot = generator.randrange(len(circle))
        slot %= len(circle)


def attempts_until(circle: Circle, port: int, generator: random.Random) -> int:
    for number, drawn in enumerate(walk(circle, generator), 1):
        if drawn == port:
            return number
    raise AssertionError


@pytest.mark.parametrize("own_range", [False, True])
@pytest.mark.parametrize(
    ("ports", "taken", "port"),
    [
        (PortRange(40000, 40001), "", 40000),
        (PortRange(40000, 40009), "", 40004),
        (PortRange(40000, 40047), "40006-40013", 40014),
        (PortRange(40000, 40047), "40002,40010,40012", 40020),
        (PortRange(40000, 40004), "40002", 40004),
        (PortRange(40000, 40799), "", 40400),
        (PortRange(40000, 40799), "40300-40320", 40322),
        (PortRange(40000, 40799), "40100-40300", 40600),
    ],
)
def test_the_law_is_that_of_simulated_walks(ports: PortRange, taken: str, port: int, own_range: bool) -> None:
    """Mean and median of 3000 walks, within five standard errors of what the law says."""
    circle = circle_of(ports, PortSet.parse(taken), own_range=own_range)
    assert circle is not None
    law = law_of(circle, port)
    assert law is not None
    generator = random.Random(7)
    seen = [attempts_until(circle, port, generator) for _ in range(3000)]
    error = statistics.stdev(seen) / math.sqrt(len(seen))
    assert abs(statistics.mean(seen) - law.mean) <= 5 * error + 1e-9
    for attempts in (1, round(law.mean / 4) + 1, round(law.mean), round(2 * law.mean)):
        share = sum(count > attempts for count in seen) / len(seen)
        survival = law.survival(attempts)
        assert abs(share - survival) <= 5 * math.sqrt(survival * (1 - survival) / len(seen)) + 0.004


@pytest.mark.parametrize("slots", [60, 150])
def test_the_closed_form_and_the_carried_on_chain_agree(slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    circle = circle_of(PortRange(40000, 40000 + 2 * slots - 1), PortSet())
    assert circle is not None
    monkeypatch.setattr("tailbite.core.laws._FEW", 0)
    laps = law_of(circle, 40010)
    monkeypatch.setattr("tailbite.core.laws._FEW", 10**9)
    exact = law_of(circle, 40010)
    assert isinstance(laps, Laps)
    assert isinstance(exact, Exact)
    assert laps.between == pytest.approx(slots, rel=1e-3)
    assert exact.between == pytest.approx(slots, rel=1e-6)
    assert laps.mean == pytest.approx(exact.mean, rel=0.01)
    for attempts in range(1, 4 * slots, 7):
        assert laps.survival(attempts) == pytest.approx(exact.survival(attempts), abs=0.01)
        assert laps.survival_between(attempts + 0.5) == pytest.approx(exact.survival_between(attempts), abs=0.03)


def test_the_default_range_has_the_figures_that_were_measured() -> None:
    """A lap of 28232 / 2 / 4.5 attempts, hit with probability 2/9; 14116 attempts from hit to hit."""
    seen = odds(32774, DEFAULT)
    assert isinstance(seen.law, Laps)
    assert seen.candidates == 14116
    assert seen.law.lap == pytest.approx(28232 / 2 / 4.5, rel=1e-6)
    assert seen.law.chance == pytest.approx(2 / 9, rel=1e-9)
    assert seen.between == pytest.approx(14116, rel=1e-6)
    assert seen.mean == pytest.approx(14116 * 8 / 9, rel=1e-3)
    assert odds(32246, STORY).between == pytest.approx(28250, rel=1e-6)


def test_the_storys_own_port_is_never_drawn_by_telnet_and_its_neighbour_is() -> None:
    """32775 is odd; a client that binds first is the other way round."""
    assert odds(32775, DEFAULT).obstacle is Obstacle.PARITY
    assert odds(32774, DEFAULT).is_possible
    assert odds(32775, DEFAULT, binds_first=True).is_possible
    assert odds(32774, DEFAULT, binds_first=True).obstacle is Obstacle.PARITY
    assert odds(32775, DEFAULT, own_range=True).is_possible
    assert "32775 is odd" in odds(32775, DEFAULT).sentence()


@pytest.mark.parametrize("port", [32774, 32775])
def test_before_linux_4_2_every_port_came_within_one_lap(port: int) -> None:
    """The story's machine: one port after the other, so it was a matter of 8 hours once a second, never of luck."""
    old = odds(port, DEFAULT, selection=Selection.ONE_BY_ONE)
    assert old.probability(len(DEFAULT)) == 1
    assert old.mean == pytest.approx((len(DEFAULT) + 1) / 2)
    assert isinstance(odds(port, DEFAULT, selection=Selection.RANDOM).law, Independent)


def test_the_port_behind_a_reserved_block_is_hit_every_lap() -> None:
    """Reserving neighbours makes it worse: whatever lands in the block slides to the port behind it."""
    behind = odds(33000, DEFAULT, PortSet.parse("32900-32999"))
    assert isinstance(behind.law, Laps)
    assert behind.law.chance == pytest.approx(1, abs=1e-6)
    assert behind.between < odds(33000, DEFAULT).between / 4


@pytest.mark.parametrize(
    ("port", "taken", "obstacle"),
    [
        (5432, "", Obstacle.OUTSIDE),
        (32774, "32774", Obstacle.TAKEN),
        (32775, "", Obstacle.PARITY),
        (61000, "", Obstacle.OUTSIDE),
    ],
)
def test_what_cannot_happen_says_why(port: int, taken: str, obstacle: Obstacle) -> None:
    seen = odds(port, DEFAULT, PortSet.parse(taken))
    assert seen.obstacle is obstacle
    assert not seen.is_possible
    assert seen.mean == seen.between == seen.quantile(0.5) == seen.seconds(0.95) == math.inf
    assert seen.probability(10**9) == 0
    assert seen.sentence().startswith("cannot happen: ")
    assert str(port) in seen.sentence()


def test_the_last_port_of_a_range_of_odd_size_is_reached_only_past_a_taken_one() -> None:
    assert odds(65500, STORY).obstacle is Obstacle.UNREACHED
    assert odds(65500, STORY, PortSet.of([65498])).is_possible


@given(situations(), st.booleans(), st.sampled_from(Selection), st.floats(0.01, 0.99))
def test_quantiles_and_probabilities_invert_each_other(
    situation: tuple[PortRange, PortSet], binds_first: bool, selection: Selection, share: float
) -> None:
    ports, taken = situation
    for port in (ports.low, (ports.low + ports.high) // 2, ports.high):
        seen = odds(port, ports, taken, binds_first=binds_first, selection=selection)
        if not seen.is_possible:
            assert seen.obstacle is not None
            continue
        assert port not in taken
        attempts = seen.quantile(share)
        if attempts == math.inf:  # fixed strides may go round and round past the port
            assert selection is Selection.BY_TWO
            assert seen.probability(10**9) < share
            assert seen.mean == math.inf
            continue
        assert seen.probability(attempts) >= share > seen.probability(attempts - 1)
        assert seen.mean >= 1
        assert seen.probability(0) == 0


@given(st.sampled_from([32774, 40000, 60998]), st.integers(1, 200_000), st.integers(1, 200_000))
def test_more_attempts_never_make_it_less_likely(port: int, one: int, other: int) -> None:
    seen = odds(port, DEFAULT)
    assert 0 <= seen.probability(min(one, other)) <= seen.probability(max(one, other)) <= 1


def test_clients_share_the_sequence_so_time_shrinks_with_their_number() -> None:
    seen = odds(32774, DEFAULT)
    assert seen.seconds(every=2.0, clients=50) == pytest.approx(seen.mean * 2 / 50)
    assert seen.seconds(0.5, every=0.1) == pytest.approx(seen.quantile(0.5) * 0.1)
    assert seen.probability_within(600, every=0.1) == seen.probability(6000)
    assert seen.probability_within(300, every=0.1) == pytest.approx(3000 / 14116, rel=0.01)
    assert "one of 50 clients" in seen.sentence(clients=50)


def test_a_trap_is_certain_at_the_first_attempt() -> None:
    seen = odds(32246, PortRange(32246, 32247))
    assert seen.is_certain_at_once
    assert seen.sentence().endswith("at the first attempt")


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, 2.0])
def test_a_quantile_of_no_probability_is_an_error(share: float) -> None:
    with pytest.raises(ValueError, match="not a probability"):
        odds(32774, DEFAULT).quantile(share)


def test_the_example_in_the_docstring_is_true() -> None:
    import doctest

    from tailbite.core import odds as module

    assert doctest.testmod(module).attempted > 3
    assert doctest.testmod(module).failed == 0


def test_a_self_connect_that_cannot_happen_has_no_quantile_and_a_reason() -> None:
    outside = odds(80, DEFAULT)
    assert outside.quantile(0.5) == outside.mean == outside.between == math.inf
    assert outside.obstacle is not None
    assert outside.obstacle.label == "outside"
    assert outside.sentence() == f"cannot happen: 80 is outside the ephemeral range {DEFAULT} of source ports"
    last = odds(32770, PortRange(32768, 32770), selection=Selection.STRIDES)
    assert last.obstacle is Obstacle.UNREACHED
    assert last.sentence() == "cannot happen: no search in 32768-32770 ends at 32770"


def test_fixed_strides_may_pass_the_port_for_ever() -> None:
    """A walk that starts on the other side of the taken port comes back to the same ports each time."""
    seen = odds(100, PortRange(100, 104), PortSet.parse("102"), selection=Selection.BY_TWO)
    assert seen.is_possible
    assert 0 < seen.probability(1000) < 0.99
    assert seen.quantile(0.99) == seen.mean == math.inf
