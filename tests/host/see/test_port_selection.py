"""The way the kernel chooses source ports is recognised from the ports, and measured on the running kernel."""

from __future__ import annotations

import random
import socket as sockets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.trap import leftovers
from tailbite.core.ports import PortRange
from tailbite.core.selection import Selection
from tailbite.host.see import port_selection
from tailbite.host.see.port_selection import CONNECTS, FEWEST_SLOTS, classify_ports, running_selection
from tailbite.kernel.sysctl import read_ephemeral_range, write_ephemeral_range


@pytest.fixture(autouse=True)
def _forget() -> None:
    running_selection.cache_clear()


def chosen(selection: Selection, ephemeral: PortRange, pick: random.Random, in_use: float) -> list[int]:
    """Return ports as the kernel would choose them; a share of the ports is in use and skipped."""
    size = len(ephemeral) & ~1
    offset, ports = pick.randrange(size), []
    for _ in range(CONNECTS):
        match selection:
            case Selection.STRIDES:
                offset += 2 * pick.randint(1, 8)
            case Selection.BY_TWO:
                offset += 2
            case Selection.ONE_BY_ONE:
                offset += 1
            case Selection.RANDOM:
                offset = pick.randrange(size)
        while pick.random() < in_use:
            offset += 1 if selection is Selection.ONE_BY_ONE else 2
        ports.append(ephemeral.low + offset % size)
    return ports


@given(
    selection=st.sampled_from(Selection),
    low=st.integers(1024, 60000),
    size=st.integers(FEWEST_SLOTS * 4, 30000),
    seed=st.integers(0, 2**32),
    in_use=st.floats(0, 0.05),
)
def test_each_way_is_recognised_in_any_range(
    selection: Selection, low: int, size: int, seed: int, in_use: float
) -> None:
    ephemeral = PortRange(low, min(low + size, 65535))
    assert classify_ports(chosen(selection, ephemeral, random.Random(seed), in_use), ephemeral) is selection


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_random_strides_among_many_taken_ports_are_not_taken_for_independent_choices(share: float) -> None:
    """As on Linux 7.2 with ip_local_port_step_width: a search that meets a taken port continues somewhere else."""
    ephemeral, pick, size = PortRange(32768, 60999), random.Random(1), 28232
    seen = set()
    for _ in range(300):
        offset, ports = pick.randrange(0, size, 2), []
        for _ in range(CONNECTS):
            offset += 2 * pick.randint(1, 8)
            free = pick.random() >= share
            ports.append(ephemeral.low + (offset % size if free else pick.randrange(0, size, 2)))
        seen.add(classify_ports(ports, ephemeral))
    assert seen <= {Selection.STRIDES, None}
    assert Selection.STRIDES in seen or share > 0.5


@given(ports=st.lists(st.integers(0, 65535), max_size=60), low=st.integers(0, 60000), size=st.integers(0, 5000))
def test_any_ports_are_answered(ports: list[int], low: int, size: int) -> None:
    found = classify_ports(ports, PortRange(low, low + size))
    assert found is None or (len(ports) >= CONNECTS // 2 and size + 1 >= FEWEST_SLOTS)


@pytest.mark.usefixtures("network")
def test_the_running_kernel_is_measured_and_nothing_is_left() -> None:
    evidence = running_selection()
    assert evidence.is_measured
    assert evidence.selection in (Selection.STRIDES, Selection.BY_TWO)
    assert "measured" in evidence.sentence()
    assert leftovers() == []


@pytest.mark.usefixtures("network")
def test_the_measurement_agrees_with_many_more_connects() -> None:
    selection = running_selection().selection
    assert classify_ports(port_selection._chosen_ports(2000), read_ephemeral_range()) is selection


@pytest.mark.usefixtures("network")
def test_a_range_that_does_not_tell_is_said_to_be_assumed() -> None:
    write_ephemeral_range(PortRange(40000, 40063))
    evidence = running_selection()
    assert not evidence.is_measured
    assert "assumed" in evidence.sentence()
    assert "40000-40063" in evidence.sentence()


def test_a_measurement_that_fails_is_said_to_be_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> sockets.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sockets, "socket", refuse)
    evidence = running_selection()
    assert not evidence.is_measured
    assert "Permission denied" in evidence.sentence()


def test_a_range_that_cannot_be_read_is_said_to_be_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable() -> PortRange:
        raise ValueError("not two numbers")

    monkeypatch.setattr(port_selection, "read_ephemeral_range", unreadable)
    assert "cannot be read" in running_selection().sentence()
