"""The model against the kernel: on the stored data of natural self-connects, and on this very kernel."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tailbite.core.odds import odds
from tailbite.core.ports import PortRange, PortSet
from tailbite.kernel.sysctl import write_reserved_ports
from tailbite.lab.fit import fit_model, kolmogorov_smirnov, wilson_interval
from tailbite.lab.loop import ExperimentSettings, LoopTally, WorkerFailed, loop_from_record, loop_to_record, run_loop
from tailbite.lab.parity import ParityCell, measure_cell, parity_cells
from tailbite.lab.record import read_record

DATA = Path(__file__).parents[2] / "docs" / "data"


@pytest.mark.parametrize(
    ("name", "port", "ephemeral", "least"),
    [
        ("loop-default", 32774, PortRange(32768, 60999), 500),
        ("loop-story", 32246, PortRange(9000, 65500), 200),
    ],
)
def test_the_stored_measurements_agree_with_the_model(name: str, port: int, ephemeral: PortRange, least: int) -> None:
    """Mean within 5 %, 2/9 a lap within its confidence interval, Kolmogorov-Smirnov p above 0.01."""
    settings, tallies = loop_from_record(read_record(DATA / f"{name}.jsonl.gz", "loop"))
    assert (settings.port, settings.ephemeral) == (port, ephemeral)
    assert not settings.binds_first
    seen = fit_model(settings, tallies)
    assert seen is not None
    assert seen.waits >= least
    assert abs(seen.deviation) < 0.05
    assert seen.lap_low is not None
    assert seen.lap_high is not None
    assert seen.lap_low <= 2 / 9 <= seen.lap_high
    assert seen.model_lap_chance == pytest.approx(2 / 9)
    assert seen.p_value > 0.01
    assert seen.agrees
    assert sum(tally.odd for tally in tallies) == 0
    assert sum(tally.even for tally in tallies) == sum(tally.attempts for tally in tallies) > 1e7


def test_the_comparison_can_fail() -> None:
    """The same data against another range: the test above is not one that passes whatever the data."""
    settings, tallies = loop_from_record(read_record(DATA / "loop-default.jsonl.gz", "loop"))
    other = ExperimentSettings(settings.port, PortRange(32768, 62999), settings.hits, settings.attempts)
    seen = fit_model(other, tallies)
    assert seen is not None
    assert seen.p_value < 1e-6
    assert not seen.agrees


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    "cell", tuple(parity_cells()), ids=lambda c: f"{c.ephemeral}-{c.port}-{c.binds_first:d}-{c.ipv6:d}"
)
def test_model_and_kernel_agree_which_ports_are_chosen(cell: ParityCell) -> None:
    """Port parity, parity of the low end, connect() or bind() first, IPv4 and IPv6."""
    seen = measure_cell(cell)
    assert seen.agrees, seen
    assert seen.hits > 0 if cell.model else seen.hits == 0


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("binds_first", [False, True])
@pytest.mark.parametrize("reserved", ["", "40100-40119", "40102,40150-40155"])
def test_this_kernel_hits_as_often_as_the_model_says(binds_first: bool, reserved: str) -> None:
    """A range of 400 ports, reserved ones included: the mean of 150 waits within five standard errors."""
    ephemeral, port = PortRange(40000, 40399), 40120 + binds_first
    taken = PortSet.parse(reserved)
    write_reserved_ports(taken)
    settings = ExperimentSettings(port, ephemeral, 151, 2_000_000, binds_first)
    (tally,) = run_loop(settings, lambda hits, attempts: None)
    waits = tally.hits[1:]
    assert len(waits) == 150
    model = odds(port, ephemeral, taken, binds_first=binds_first)
    mean = sum(waits) / len(waits)
    error = math.sqrt(sum((wait - mean) ** 2 for wait in waits) / (len(waits) - 1) / len(waits))
    assert abs(mean - model.between) <= 5 * error


@pytest.mark.usefixtures("network")
def test_the_port_behind_a_reserved_block_is_hit_every_lap_on_this_kernel() -> None:
    """The model's claim about reserved neighbours: with 20 of them before the port, no lap misses it."""
    ephemeral = PortRange(40000, 40799)
    alone = odds(40400, ephemeral)
    write_reserved_ports(PortSet.parse("40360-40399"))
    (tally,) = run_loop(ExperimentSettings(40400, ephemeral, 41, 10**6), lambda hits, attempts: None)
    assert max(tally.hits[1:]) < 130, "a lap is 400 slots by strides of 4.5: some 85 attempts"
    assert alone.between == pytest.approx(400, rel=0.01)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("ipv6", [False, True])
def test_workers_see_independent_sequences_and_the_strides_of_the_kernel(ipv6: bool) -> None:
    """2 to 16, all of them, and nothing odd; each worker dials an address of its own."""
    settings = ExperimentSettings(40008, PortRange(40000, 40999), 21, 10**6, ipv6=ipv6, workers=2)
    seen: list[tuple[int, int]] = []
    tallies = run_loop(settings, lambda hits, attempts: seen.append((hits, attempts)))
    assert [len(tally.hits) for tally in tallies] == [11, 10]
    assert seen[-1] == (21, sum(tally.attempts for tally in tallies))
    assert len({tally.address for tally in tallies}) == 2
    for tally in tallies:
        assert set(range(2, 17, 2)) <= set(tally.strides)
        assert all(stride % 2 == 0 for stride in tally.strides)
        assert (tally.odd, tally.even) == (0, tally.attempts)
        assert sum(tally.bins) == tally.attempts


@pytest.mark.usefixtures("network")
def test_a_listener_on_the_port_is_an_error_not_a_hit() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 40008)), pytest.raises(WorkerFailed, match="port 40008"):
        run_loop(ExperimentSettings(40008, PortRange(40000, 40999), 1, 1000), lambda hits, attempts: None)


def test_a_record_comes_back_as_it_was() -> None:
    settings = ExperimentSettings(32774, PortRange(32768, 60999), 3, 10, workers=1)
    tally = LoopTally(0, "127.0.0.1", attempts=5, hits=[2, 3])
    tally.strides[4] = 7
    assert loop_from_record(loop_to_record(settings, [tally])) == (settings, [tally])


def test_wilson_holds_the_share_and_narrows_with_trials() -> None:
    low, high = wilson_interval(20, 90)
    narrow_low, narrow_high = wilson_interval(2000, 9000)
    assert low < narrow_low < 2 / 9 < narrow_high < high


def test_kolmogorov_smirnov_of_a_uniform_sample_and_of_a_shifted_one() -> None:
    values = list(range(1, 201))
    assert kolmogorov_smirnov(values, lambda x: min(1.0, max(0.0, x / 200)))[1] > 0.99
    assert kolmogorov_smirnov(values, lambda x: min(1.0, max(0.0, (x - 40) / 200)))[1] < 0.001
