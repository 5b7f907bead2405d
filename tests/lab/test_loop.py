"""The loop at full speed on this kernel, and its records."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from support.machine_events import own_port
from tailbite.core.odds import odds
from tailbite.core.ports import PortRange, PortSet
from tailbite.kernel.sysctl import write_reserved_ports
from tailbite.lab.loop import ExperimentSettings, LoopTally, WorkerFailed, loop_from_record, loop_to_record, run_loop

DATA = Path(__file__).parents[2] / "docs" / "data"


@pytest.mark.needs("RANDOM_STRIDES")
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("binds_first", [False, True])
@pytest.mark.parametrize("reserved", [(), ((100, 119),), ((102, 102), (150, 155))], ids=["none", "block", "two"])
def test_this_kernel_hits_as_often_as_the_model_says(
    binds_first: bool, reserved: tuple[tuple[int, int], ...]
) -> None:
    """A range of 400 ports, reserved ones included: the mean of 150 waits within five standard errors."""
    # All namespaces of the machine share the kernel's table of sequences, and its key has the destination port
    # (inet_hashtables.c, table_perturb): a second process with the same port would move this process's walk.
    port = own_port(20_000, 8) + binds_first
    base = port - 120 - binds_first
    ephemeral = PortRange(base, base + 399)
    taken = PortSet.parse(",".join(f"{base + low}-{base + high}" for low, high in reserved))
    write_reserved_ports(taken)
    settings = ExperimentSettings(port, ephemeral, 151, 2_000_000, binds_first)
    (tally,) = run_loop(settings, lambda hits, attempts: None)
    waits = tally.hits[1:]
    assert len(waits) == 150
    model = odds(port, ephemeral, taken, binds_first=binds_first)
    mean = sum(waits) / len(waits)
    error = math.sqrt(sum((wait - mean) ** 2 for wait in waits) / (len(waits) - 1) / len(waits))
    assert abs(mean - model.between) <= 5 * error


@pytest.mark.needs("RANDOM_STRIDES")
@pytest.mark.usefixtures("network")
def test_the_port_behind_a_reserved_block_is_hit_every_lap_on_this_kernel() -> None:
    """The model's claim about reserved neighbours: with 20 of them before the port, no lap misses it."""
    # All namespaces of the machine share the kernel's table of sequences, and its key has the destination port
    # (inet_hashtables.c, table_perturb): a second process with the same port would move this process's walk.
    port = own_port(20_000, 8) + 2
    base = port - 400
    ephemeral = PortRange(base, base + 799)
    alone = odds(port, ephemeral)
    write_reserved_ports(PortSet.parse(f"{base + 360}-{base + 399}"))
    (tally,) = run_loop(ExperimentSettings(port, ephemeral, 41, 10**6), lambda hits, attempts: None)
    assert max(tally.hits[1:]) < 130, "a lap is 400 slots by strides of 4.5: some 85 attempts"
    assert alone.between == pytest.approx(400, rel=0.01)


@pytest.mark.needs("RANDOM_STRIDES")
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("ipv6", [False, True])
def test_workers_see_independent_sequences_and_the_strides_of_the_kernel(ipv6: bool) -> None:
    """2 to 16, all of them, and nothing odd; each worker dials an address of its own."""
    # All namespaces of the machine share the kernel's table of sequences, and its key has the destination port
    # (inet_hashtables.c, table_perturb): a second process with the same port would move this process's walk.
    port = own_port(20_000, 8) + 4
    base = port - 8
    settings = ExperimentSettings(port, PortRange(base, base + 999), 21, 10**6, ipv6=ipv6, workers=2)
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


CTRL_C_AT_THE_FORK = """
import multiprocessing, os, signal
from tailbite.core.ports import PortRange
from tailbite.lab.loop import ExperimentSettings, run_loop
os.register_at_fork(after_in_{side}=lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    (tally,) = run_loop(ExperimentSettings(40008, PortRange(40008, 40009), 1, 10**6), lambda *_: None)
    print(len(tally.hits))
except KeyboardInterrupt:
    print("interrupted", multiprocessing.active_children())
"""


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(("side", "said"), [("child", "1\n"), ("parent", "interrupted []\n")])
def test_ctrl_c_while_a_worker_is_started_is_the_parents(side: str, said: str) -> None:
    """A terminal sends it to both: the worker has nothing to say, and the parent ends the worker."""
    code = CTRL_C_AT_THE_FORK.format(side=side)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (said, "")


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
