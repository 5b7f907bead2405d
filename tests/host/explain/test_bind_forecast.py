"""The forecast's rules that need no kernel; tests/host/explain/test_evaluation.py compares it with the kernel."""

from __future__ import annotations

import socket

import pytest

from tailbite.core.address import Endpoint, FourTuple
from tailbite.host.explain.bind_forecast import BindAddress, BindOutcome, asked_addresses, forecast_bind
from tailbite.kernel.inet_diag import TcpSocket, TcpState

ANY = BindAddress("0.0.0.0")


def holder(state: TcpState, host: str = "127.0.0.1", *, v6_only: bool | None = None) -> TcpSocket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ends = FourTuple(Endpoint(host, 7000), Endpoint("0.0.0.0", 0))
    return TcpSocket(family, state, ends, 0, 1, 0, 0, 0, (1, 0), 0, v6_only)


def test_a_user_who_may_not_bind_is_told_so_whatever_holds_the_port() -> None:
    for sockets in ((), (holder(TcpState.LISTEN),)):
        assert forecast_bind(ANY, sockets, permitted=False).plain is BindOutcome.NOT_PERMITTED


def test_a_kernel_that_does_not_list_bound_sockets_leaves_a_free_port_unknown() -> None:
    """Before Linux 6.8 nothing is claimed of what is not listed; what is listed is in the way all the same."""
    assert forecast_bind(ANY, (), sees_bound=False).plain is BindOutcome.NOT_KNOWN
    held = forecast_bind(ANY, (holder(TcpState.ESTABLISHED),), sees_bound=False)
    assert (held.plain, held.reuse_address) == (BindOutcome.FAILS, BindOutcome.DEPENDS)


def test_a_listener_is_in_the_way_with_so_reuseaddr_too() -> None:
    assert forecast_bind(ANY, (holder(TcpState.LISTEN),)).reuse_address is BindOutcome.FAILS


def test_of_an_ipv6_connection_it_is_not_known_whether_ipv4_wildcards_meet_it() -> None:
    connection = holder(TcpState.ESTABLISHED, "::1")
    assert forecast_bind(ANY, (connection,)).plain is BindOutcome.UNCERTAIN
    assert forecast_bind(BindAddress("127.0.0.1"), (connection,)).plain is BindOutcome.WORKS


@pytest.mark.parametrize(
    ("host", "names"),
    [
        (None, ["0.0.0.0:80", "[::]:80", "[::]:80 with IPV6_V6ONLY"]),
        ("::", ["[::]:80", "[::]:80 with IPV6_V6ONLY"]),
        ("::1", ["[::1]:80"]),
        ("127.0.0.1", ["127.0.0.1:80"]),
    ],
)
def test_a_question_is_about_the_address_that_was_named_or_about_all(host: str | None, names: list[str]) -> None:
    assert [address.spell(80) for address in asked_addresses(host)] == names
