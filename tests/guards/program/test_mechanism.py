"""The mechanism that a system allows: a table of systems, and what holds for all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.guards.program.mechanism import Capabilities, Mechanism, Place, choose, read_capabilities

ALLOWS_ALL = Capabilities(
    system="linux",
    machine="x86_64",
    is_known_machine=True,
    release=(6, 18),
    reports_calls=True,
    reports_end=True,
    has_proc=True,
    reads_memory=True,
    shows_end=True,
    copies_descriptors=True,
    steers=True,
    holds=True,
    yama=0,
    is_privileged=False,
)


@pytest.mark.parametrize(
    ("changes", "mechanism", "place"),
    [
        ({}, Mechanism.STEER, Place.BESIDE),
        ({"copies_descriptors": False}, Mechanism.HOLD, Place.BESIDE),  # Docker's default profile
        ({"steers": False, "release": (6, 1)}, Mechanism.HOLD, Place.BESIDE),  # Debian 12
        ({"holds": False}, Mechanism.STEER, Place.BESIDE),
        ({"yama": 1}, Mechanism.STEER, Place.ABOVE),  # Ubuntu
        ({"yama": 1, "copies_descriptors": False}, Mechanism.HOLD, Place.ABOVE),  # Docker on Ubuntu
        ({"yama": 1, "is_privileged": True}, Mechanism.STEER, Place.BESIDE),
        ({"yama": 2, "is_privileged": True}, Mechanism.STEER, Place.BESIDE),
    ],
)
def test_what_is_chosen(changes: dict[str, object], mechanism: Mechanism, place: Place) -> None:
    chosen = choose(replace(ALLOWS_ALL, **changes))  # type: ignore[arg-type]
    assert (chosen.mechanism, chosen.place, chosen.reason) == (mechanism, place, "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"system": "darwin"}, "this is darwin, and programs can be guarded on Linux only"),
        ({"machine": "s390x", "is_known_machine": False}, "system call numbers of s390x"),
        (
            {"release": (5, 4), "reports_end": False},
            "this is Linux 5.4, and inspecting connect calls needs Linux 5.8",
        ),
        ({"reports_calls": False}, "does not allow seccomp user notification"),
        ({"has_proc": False}, "/proc is not mounted here"),
        ({"open_files": 15}, "the limit of open files is 15 (ulimit -Hn), and a guard needs 16"),
        ({"reads_memory": False}, "reading another process's memory is forbidden"),
        ({"steers": False, "holds": False}, "a port cannot be held here"),
        ({"copies_descriptors": False, "holds": False}, "what does work here: --in-process for Pythons"),
        ({"yama": 2}, "kernel.yama.ptrace_scope is 2"),
        ({"yama": 3, "is_privileged": True}, "kernel.yama.ptrace_scope is 3"),
    ],
)
def test_why_nothing_is(changes: dict[str, object], reason: str) -> None:
    chosen = choose(replace(ALLOWS_ALL, **changes))  # type: ignore[arg-type]
    assert chosen.mechanism is Mechanism.NONE
    assert reason in chosen.reason


systems = st.builds(
    Capabilities,
    system=st.sampled_from(["linux", "darwin", "freebsd14"]),
    machine=st.just("x86_64"),
    is_known_machine=st.booleans(),
    release=st.tuples(st.integers(3, 7), st.integers(0, 20)),
    reports_calls=st.booleans(),
    reports_end=st.booleans(),
    reads_memory=st.booleans(),
    shows_end=st.booleans(),
    copies_descriptors=st.booleans(),
    steers=st.booleans(),
    holds=st.booleans(),
    yama=st.integers(0, 3),
    is_privileged=st.booleans(),
)


@given(systems, st.booleans(), st.booleans())
def test_for_every_system_there_is_a_guard_or_a_reason(
    capabilities: Capabilities, names_ports: bool, stays: bool
) -> None:
    chosen = choose(capabilities, names_ports=names_ports, stays_parent=stays)
    assert bool(chosen.reason) == (chosen.mechanism is Mechanism.NONE)
    can_name = capabilities.system == "linux" and capabilities.shows_end
    assert (chosen.mechanism is Mechanism.NAMED_PORTS) == (names_ports and can_name)
    if "--port" in chosen.reason:
        assert choose(capabilities, names_ports=True).mechanism is Mechanism.NAMED_PORTS
        assert capabilities.holds
    if chosen.mechanism is Mechanism.STEER:
        assert capabilities.copies_descriptors and capabilities.steers
    if capabilities.yama and not capabilities.is_privileged and chosen.mechanism in (Mechanism.STEER, Mechanism.HOLD):
        assert chosen.place is Place.ABOVE
    if chosen.mechanism is Mechanism.HOLD:
        assert capabilities.holds
    if stays:
        assert chosen.place is Place.ABOVE


def test_this_system_is_looked_at_without_changing_it() -> None:
    capabilities = read_capabilities()
    assert capabilities.system == "linux"
    assert capabilities.is_known_machine and capabilities.reports_calls and capabilities.reads_memory
    assert read_capabilities() == capabilities
