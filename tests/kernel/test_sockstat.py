"""The counts of /proc/net/sockstat are of one namespace, and every kind of TCP socket that matters is in them."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.guarded import wait_until
from support.trap import PORT
from tailbite.kernel.namespace import fresh_network
from tailbite.kernel.sockstat import TcpUsage, parse_sockstat, read_tcp_usage

FOUR = "sockets: used {used}\nTCP: inuse {four} orphan 1 tw {tw} alloc 7 mem 123\nUDP: inuse 3 mem 0\n"
SIX = "TCP6: inuse {six}\nUDP6: inuse 5\nFRAG6: inuse 0 memory 0\n"
COUNTS = st.integers(0, 2**31 - 1)


@given(four=COUNTS, six=COUNTS, tw=COUNTS, used=COUNTS)
def test_both_families_are_added(four: int, six: int, tw: int, used: int) -> None:
    text = FOUR.format(four=four, tw=tw, used=used)
    assert parse_sockstat(text, SIX.format(six=six)) == TcpUsage(four + six, tw, used)
    assert parse_sockstat(text, "") == TcpUsage(four, tw, used)


@pytest.mark.parametrize("text", ["", "TCP: inuse 1", "sockets: used 1\nUDP: inuse 0", "sockets: used 1\nTCP: inuse"])
def test_a_text_without_the_counts_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_sockstat(text, "")


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_self_connect_is_counted_while_it_lives_and_in_time_wait(host: str) -> None:
    assert read_tcp_usage().is_empty
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, PORT))
        # Bound only: not among those in use. The kernel frees other sockets, which it counts, a moment later.
        wait_until(lambda: read_tcp_usage().sockets == 1, "only this socket is there")
        assert read_tcp_usage().is_empty
        sock.connect((host, PORT))
        assert read_tcp_usage() == TcpUsage(1, 0, 1)
    wait_until(lambda: read_tcp_usage() == TcpUsage(0, 1, 0), "the FIN of the other side has arrived")
    assert not read_tcp_usage().is_empty


@pytest.mark.usefixtures("network")
def test_a_listener_is_counted_in_its_namespace_alone() -> None:
    with socket.create_server(("127.0.0.1", PORT)):
        assert read_tcp_usage().in_use == 1
        with fresh_network():
            assert read_tcp_usage().is_empty
        assert read_tcp_usage(f"/proc/{os.getpid()}").in_use == 1


def test_a_process_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        read_tcp_usage("/proc/0")
