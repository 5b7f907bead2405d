"""The strategies in a storm, and their records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tailbite.lab.cures import Cures, cures_from_record, cures_to_record, run_cures
from tailbite.lab.storm import StormRound, StormSettings
from tailbite.lab.strategies import STRATEGIES

QUICK = StormSettings(clients=8, restarts=2, attempts=800, every=0.1, patience=0.5)
PATIENT = replace(QUICK, patience=20.0)
"""For strategies with which no server has to be helped, so that it takes no longer."""
PREVENT = [strategy for strategy in STRATEGIES if strategy.prevents]
NAMES = {strategy.name: strategy for strategy in STRATEGIES}


def run(*names: str, settings: StormSettings = QUICK) -> Cures:
    rounds: list[StormRound] = []
    seen = run_cures([NAMES[name] for name in names], settings, lambda name: None, rounds.append, blocks=4)
    assert list(seen.rounds) == rounds
    return seen


@pytest.mark.usefixtures("network")
def test_a_naive_client_keeps_every_start_from_succeeding_until_it_is_killed() -> None:
    (summary,) = run("naive").summaries()
    assert summary.failed == summary.restarts == 2
    assert summary.self_connects >= 2
    assert summary.down is None
    assert summary.kept_down == "until killed"
    assert summary.recovered is None


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("name", ["compare and close", "as Go"])
def test_closing_leaves_a_time_wait_that_keeps_the_server_down_for_a_minute(name: str) -> None:
    seen = run(name)
    (summary,) = seen.summaries()
    assert summary.failed == 2
    assert {each.held_by for each in seen.rounds} == {"TIME-WAIT"}
    assert summary.down is not None
    assert 50 < summary.down < 100


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(each, id=each.name, marks=[pytest.mark.needs("XT_BPF")] * (each.name == "host guard"))
        for each in PREVENT
    ],
)
def test_prevention_lets_every_start_succeed_at_once(strategy: object) -> None:
    """No self-connect and no failed start, in a namespace where the control had one."""
    seen = run(getattr(strategy, "name", ""), settings=PATIENT)
    (summary,) = seen.summaries()
    assert (summary.self_connects, summary.failed) == (0, 0)
    assert summary.recovered is not None
    assert summary.recovered < 20
    assert all(each.attempts >= QUICK.attempts for each in seen.rounds)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("name", ["abort", "reuse and close"])
def test_what_leaves_nothing_in_the_way_has_self_connects_but_no_start_that_needs_help(name: str) -> None:
    """A start may be repeated: a self-connect may live just then, until its client's thread gets a CPU."""
    seen = run(name, settings=PATIENT)
    (summary,) = seen.summaries()
    assert summary.self_connects > 0
    assert not any(each.helped for each in seen.rounds)


@pytest.mark.usefixtures("network")
def test_reusing_addresses_on_the_client_does_not_help_a_plain_server() -> None:
    settings = StormSettings(8, 1, 800, 0.1, 0.5, plain_server=True)
    (summary,) = run("reuse and close", settings=settings).summaries()
    assert summary.failed == 1


def test_the_claims_are_checked_not_assumed() -> None:
    good = StormRound("port range", 1, 100, 0, 0, 0.0, False, None, 0.1)
    bad = StormRound("port range", 1, 100, 0, 1, 0.2, False, "TIME-WAIT", 0.3)
    naive = StormRound("naive", 1, 100, 0, 0, 0.0, False, None, 0.1)
    assert Cures(QUICK, (good,), ()).is_as_claimed
    assert not Cures(QUICK, (bad,), ()).is_as_claimed
    assert not Cures(QUICK, (naive, good), ()).is_as_claimed


def test_a_record_comes_back_as_it_was() -> None:
    seen = Cures(QUICK, (StormRound("naive", 1, 100, 2, 3, 0.5, True, "ESTABLISHED", None),), ())
    assert cures_from_record(cures_to_record(seen)) == seen
