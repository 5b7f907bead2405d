"""TCP's counters, and how far they went when they wrapped around."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.kernel.snmp import TcpOpens, counted_since, parse_snmp, read_tcp_opens


@pytest.mark.usefixtures("network")
def test_connections_are_counted_at_both_ends() -> None:
    before = read_tcp_opens()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        server.accept()[0].close()
    assert read_tcp_opens() == TcpOpens(before.active + 1, before.passive + 1)


@given(before=st.integers(0, 2**32 - 1), more=st.integers(0, 2**31))
def test_a_counter_of_32_bits_wraps(before: int, more: int) -> None:
    assert counted_since(before, (before + more) % 2**32) == more


@given(before=st.integers(2**32, 2**64 - 1), more=st.integers(0, 2**31))
def test_a_counter_of_64_bits_wraps(before: int, more: int) -> None:
    assert counted_since(before, (before + more) % 2**64) == more


@pytest.mark.parametrize("text", ["", "Tcp: ActiveOpens\n", "Tcp: PassiveOpens\nTcp: 7\n", "Ip: A\nIp: 1\n"])
def test_a_text_without_the_counters_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_snmp(text)
