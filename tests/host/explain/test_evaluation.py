"""Every claim of ``why`` about a bind is what the kernel then does: holders x addresses x families x options."""

from __future__ import annotations

import contextlib
import itertools
import re
from typing import TYPE_CHECKING

import pytest

from support.abilities import has_ability
from support.holders import KINDS, V6_ONLY, Holder, new_socket, server_binds
from tailbite.host.explain.bind_forecast import BindAddress, BindOutcome
from tailbite.host.explain.finding import Severity
from tailbite.host.explain.why import Explanation, explain_port
from tailbite.host.see.namespaces import current_namespace
from tailbite.host.see.port import inspect_port
from tailbite.kernel.sockopt import abort

if TYPE_CHECKING:
    from collections.abc import Iterable

ASKED = (None, "0.0.0.0", "127.0.0.1", "127.0.0.2", "127.0.0.6", "::", "::1")
SERVERS = ("0.0.0.0", "127.0.0.1", "127.0.0.2", "127.0.0.6", "::", V6_ONLY, "::1")
LISTENERS = tuple(kind for kind in KINDS if kind.startswith("listening"))
_IN_THE_WAY = {"TB101", "TB102", "TB103", "TB104", "TB105", "TB106", "TB107", "TB111", "TB115"}
_UNBOUND = ("bound", *LISTENERS)
_CONNECTED = tuple(kind for kind in KINDS if kind not in _UNBOUND)
SINGLES = [
    (Holder(kind, host, reuse),)
    for kinds, hosts in (
        (_UNBOUND, ("0.0.0.0", "127.0.0.1", "127.0.0.2", "::", V6_ONLY, "::1", "::ffff:127.0.0.1")),
        (_CONNECTED, ("127.0.0.1", "::1", "::ffff:127.0.0.1")),
        (
            ("accepted", "accepted_time_wait", "source_bound", "source_destroyed", "self_bound"),
            ("0.0.0.0", "::", V6_ONLY),
        ),
    )
    for kind, host, reuse in itertools.product(kinds, hosts, (False, True))
]
_PAIRED = ("bound", "listening", "self_bound", "accepted", "source_bound", "self_bound_time_wait")
PAIRS = [
    (Holder(one, "127.0.0.1", reuse), Holder(other, "::1", reuse))
    for one, other, reuse in itertools.product(_PAIRED, _PAIRED, (False, True))
]
HELD = [*SINGLES, *PAIRS]


def test_there_are_more_than_two_thousand_combinations() -> None:
    assert len(HELD) * len(SERVERS) * 2 >= 2000


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("part", range(4))
def test_what_is_said_to_work_works_and_what_is_said_to_fail_fails(part: int) -> None:
    sees_bound = has_ability("BOUND_SOCKETS_LISTED")
    for number, holders in enumerate(HELD[part::4]):
        port = 40000 + number
        with contextlib.ExitStack() as stack:
            for holder in holders:
                stack.enter_context(holder.held(port))
            (shot,) = inspect_port(port, [current_namespace()])
            answers = {host: explain_port(shot, (), host) for host in ASKED}
            truth = {
                (server, reuse): server_binds(server, port, reuse=reuse)
                for server in SERVERS
                for reuse in (False, True)
            }
            reached = {
                host: dials(host, port)
                for host in ASKED
                if host not in (None, "0.0.0.0", "::") and all(holder.kind in LISTENERS for holder in holders)
            }
        is_visible = sees_bound or not any(holder.kind.startswith("bound") for holder in holders)
        for host, answer in answers.items():
            if is_visible:
                assert_true(answer, truth, holders, port, host)
            if not sees_bound:
                assert_nothing_is_claimed(answer)
            if host in reached:
                codes = {one.code for one in answer.findings}
                assert ("TB106" in codes, "TB107" in codes) == (reached[host], not reached[host]), (holders, host)


def assert_nothing_is_claimed(answer: Explanation) -> None:
    """Require that no forecast says that a bind works, where the kernel does not list sockets that are only bound."""
    outcomes = {outcome for each in answer.forecasts for outcome in (each.plain, each.reuse_address)}
    assert BindOutcome.WORKS not in outcomes


def dials(host: str | None, port: int) -> bool:
    """Connect as a client on this host does; True if a server is there."""
    assert host is not None
    with contextlib.closing(new_socket(host, reuse=False)) as client:
        is_there = client.connect_ex((host, port)) == 0
        abort(client)
    return is_there


def assert_true(
    answer: Explanation, truth: dict[tuple[str, bool], bool], holders: Iterable[Holder], port: int, host: str | None
) -> None:
    names = ", ".join(map(str, holders))
    assert answer.forecasts, names
    for forecast in answer.forecasts:
        server = spelled(forecast.address)
        for reuse, outcome in ((False, forecast.plain), (True, forecast.reuse_address)):
            works = truth[server, reuse]
            if outcome is BindOutcome.DEPENDS:
                in_the_way = {holder.reuse for holder in holders}
                if len(in_the_way) == 1:
                    assert works == in_the_way.pop(), (names, host, server)
            elif outcome is BindOutcome.NOT_KNOWN:
                assert not has_ability("BOUND_SOCKETS_LISTED"), (names, host, server)
            elif outcome is BindOutcome.UNCERTAIN:
                assert any(":" in holder.host for holder in holders), (names, host, server)
            else:
                assert works == (outcome is BindOutcome.WORKS), (names, host, server, reuse, outcome)
    assert_sentences(answer, truth, names, port)
    assert_verdict(answer, truth, names, host)


def assert_sentences(answer: Explanation, truth: dict[tuple[str, bool], bool], names: str, port: int) -> None:
    """Compare the sentences with the kernel: nothing that a sentence promises or denies is otherwise."""
    end = rf"(?:\[[0-9a-f:]+\]|[0-9.]+):{port}(?: with IPV6_V6ONLY)?"
    said = 0
    for one in answer.findings:
        text = f"{one.what} {one.why}"
        for verb, ends, tail in re.findall(
            rf"A server (can|cannot) bind ({end}(?:(?:, | and ){end})*)(.{{0,7}})", text
        ):
            for server in re.findall(end, ends):
                said += 1
                if not tail.startswith(" if"):
                    assert truth[named(server, port), False] == (verb == "can"), (names, text)
        for server in re.findall(rf"not in the way on (?:{end} and )?({end})", text):
            # Another socket may be in the way; this one does not make the bind fail.
            blockers = {
                blocker.endpoints.local
                for forecast in answer.forecasts
                if spelled(forecast.address) == named(server, port) and forecast.plain is BindOutcome.FAILS
                for blocker in forecast.blockers
            }
            assert one.endpoint not in blockers, (names, text)
    # Where bound sockets are not listed, every sentence may say that it is not known.
    assert said or not has_ability("BOUND_SOCKETS_LISTED"), (names, answer.findings)


def named(server: str, port: int) -> str:
    """Return the key in ``truth`` of an address as it is printed."""
    return V6_ONLY if "IPV6_V6ONLY" in server else server.removesuffix(f":{port}").strip("[]")


def assert_verdict(answer: Explanation, truth: dict[tuple[str, bool], bool], names: str, host: str | None) -> None:
    """The severity follows the forecast: critical only where a bind fails, free only where it works."""
    wanted = [spelled(one.address) for one in answer.forecasts]
    codes = {one.code for one in answer.findings}
    severities = {one.severity for one in answer.findings}
    free = all(truth[server, False] for server in wanted)
    if Severity.CRITICAL in severities:
        assert not free, (names, host, codes)
    if codes & {"TB109", "TB110"}:
        assert free, (names, host, codes)
    if not any(truth[server, False] for server in wanted):
        assert codes & _IN_THE_WAY, (names, host, codes)
    assert answer.is_bad or codes & {"TB106", "TB107", "TB110"}, (names, host, codes)


def spelled(address: BindAddress) -> str:
    return V6_ONLY if address.host == "::" and address.v6_only else address.host
