"""Findings about ports that nothing holds: each claim about chance and permission is what the kernel does."""

from __future__ import annotations

import socket
from dataclasses import replace
from functools import partial

import pytest

from support.holders import Holder
from tailbite.core.ports import PortRange, PortSet
from tailbite.core.selection import Selection
from tailbite.host.explain.finding import Confidence, Severity
from tailbite.host.explain.why import explain_port
from tailbite.host.see.namespaces import current_namespace
from tailbite.host.see.port import PortSnapshot, inspect_port
from tailbite.host.see.port_selection import SelectionEvidence
from tailbite.host.see.records import Namespace, NamespaceKind
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range

PORT = 40000
HERE = Namespace(1, NamespaceKind.OWN, "this namespace")


def made_up(*, sees_bound: bool = True, may_bind: bool = True, port: int = PORT) -> PortSnapshot:
    return PortSnapshot(HERE, port, (), frozenset(), PortRange(32768, 60999), PortSet(), 1024, may_bind, sees_bound)


def test_a_kernel_that_does_not_list_bound_sockets_is_not_said_to_have_a_free_port() -> None:
    seen = explain_port(made_up(sees_bound=False))
    assert "that this kernel lists" in seen.findings[0].what
    assert "would work" not in str(seen.forecasts)
    assert "is not known: this kernel does not list" in seen.findings[0].what
    assert seen.findings[0].confidence is Confidence.LIKELY


def test_odds_are_those_of_the_running_kernel_and_say_if_that_is_assumed() -> None:
    odds = {}
    for selection in (Selection.STRIDES, Selection.BY_TWO):
        evidence = SelectionEvidence(selection, False, "the release is 5.10")
        facts = explain_port(made_up(), selection=partial(replace, evidence)).findings[0].facts
        odds[selection] = facts[0].value
        assert "assumed" in next(fact.words for fact in facts if fact.name == "source ports")
    assert odds[Selection.STRIDES] != odds[Selection.BY_TWO]


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    "elsewhere",
    [
        pytest.param(True, marks=pytest.mark.needs("BOUND_SOCKETS_LISTED"), id="bound-on-another-address"),
        pytest.param(False, id="free"),
    ],
)
def test_a_port_that_somebody_binds_on_another_address_cannot_be_taken(elsewhere: bool) -> None:
    """connect(2) skips every port that a program has bound, whatever the address; the control takes it."""
    write_ephemeral_range(PortRange(PORT, PORT + 1))
    held = socket.socket()
    if elsewhere:
        held.bind(("127.0.0.2", PORT))
    (shot,) = inspect_port(PORT, [current_namespace()])
    codes = [one.code for one in explain_port(shot, (), "127.0.0.1").findings]
    taken = False
    for _ in range(8):
        with socket.socket() as sock:
            taken = taken or sock.connect_ex(("127.0.0.1", PORT)) == 0
            abort(sock)
    held.close()
    assert taken is not elsewhere
    assert ("TB109" in codes) is not elsewhere


@pytest.mark.usefixtures("network")
def test_a_connection_of_the_kernels_choice_leaves_the_port_at_risk_for_other_destinations() -> None:
    with Holder("source_chosen", "127.0.0.1", reuse=False).held(PORT):
        (shot,) = inspect_port(PORT, [current_namespace()])
        assert [one.code for one in explain_port(shot, (), "::1").findings] == ["TB109", "TB103"]


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("port", "client"),
    [(50008, "a client that retries can"), (50009, "a client that retries and binds"), (50010, "no client")],
)
def test_the_client_that_is_named_is_given_the_port_and_no_other_is(port: int, client: str) -> None:
    """Odd ports are for clients that bind first; of an odd number of ports no search ends at the last one."""
    write_ephemeral_range(PortRange(50008, 50010))
    (shot,) = inspect_port(port, [current_namespace()])
    (finding,) = explain_port(shot, (), "127.0.0.1").findings
    assert client in finding.what
    given = []
    for binds in (False, True):
        with socket.socket() as sock:
            if binds:
                sock.bind(("127.0.0.1", 0))
            given.append(sock.connect_ex(("127.0.0.1", port)) == 0)
            abort(sock)
    assert given == [fact.value is not None for fact in finding.facts[:2]] == [port == 50008, port == 50009]
    assert finding.severity is (Severity.WARNING if any(given) else Severity.NOTICE)


def test_without_simultaneous_open_no_client_is_said_to_be_connected_to_itself() -> None:
    (finding,) = explain_port(replace(made_up(), opens_simultaneously=False)).findings
    assert "no client connects to itself" in finding.what
    assert finding.severity is Severity.NOTICE
