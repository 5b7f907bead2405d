"""Socket options on the live kernel: the facts the plan rests on."""

from __future__ import annotations

import contextlib
import errno
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.trap import PORT, leftovers
from tailbite.core.ports import PortRange
from tailbite.kernel import sockopt
from tailbite.kernel.sysctl import write_ephemeral_range

ports = st.integers(0, 65535)


@given(low=ports, high=ports)
def test_every_pair_of_bounds_fits_a_c_int_and_is_read_back(low: int, high: int) -> None:
    value = sockopt.pack_port_range(low, high)
    assert -(1 << 31) <= value < 1 << 31
    assert (value & 0xFFFF, value >> 16 & 0xFFFF) == (low, high)


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_kernel_takes_every_range_up_to_65535(family: int) -> None:
    with socket.socket(family) as sock:
        for low, high in ((1, 2), (32767, 32768), (32768, 60999), (65534, 65535), (65535, 65535)):
            sockopt.set_local_port_range(sock, PortRange(low, high))
            assert sockopt.local_port_range(sock) == (low, high)
        sock.setsockopt(socket.IPPROTO_IP, sockopt.IP_LOCAL_PORT_RANGE, 0)
        assert sockopt.local_port_range(sock) == (0, 0)


@pytest.mark.needs("IP_LOCAL_PORT_RANGE", "BOTH_PARITIES_OF_RANGE")
@pytest.mark.usefixtures("network")
def test_a_bound_outside_the_ephemeral_range_is_ignored_on_its_own() -> None:
    """The reason why the plan takes the lower side when P is the high end, and never a range outside."""
    write_ephemeral_range(PortRange(PORT, PORT + 9))
    drawn = set()
    with socket.create_server(("127.0.0.1", 5432), backlog=64) as server:
        for _ in range(200):
            with socket.socket() as sock:
                sockopt.set_local_port_range(sock, PortRange(PORT - 100, PORT + 3))
                sock.connect(("127.0.0.1", 5432))
                drawn.add(sock.getsockname()[1])
                server.accept()[0].close()
                sockopt.abort(sock)
    assert drawn == set(range(PORT, PORT + 4))


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.usefixtures("network")
def test_full_is_eaddrnotavail_from_connect_and_eaddrinuse_from_bind() -> None:
    write_ephemeral_range(PortRange(PORT, PORT + 9))
    with socket.create_server(("127.0.0.1", 5432), backlog=64), socket.socket() as first, socket.socket() as second:
        for sock in (first, second):
            sockopt.set_local_port_range(sock, PortRange(PORT, PORT))
        first.connect(("127.0.0.1", 5432))
        with pytest.raises(OSError) as full:
            second.connect(("127.0.0.1", 5432))
        assert full.value.errno == errno.EADDRNOTAVAIL
        with pytest.raises(OSError) as full:
            second.bind(("127.0.0.1", 0))
        assert full.value.errno == errno.EADDRINUSE
        second.setsockopt(socket.IPPROTO_IP, sockopt.IP_LOCAL_PORT_RANGE, 0)
        second.connect(("127.0.0.1", 5432))  # the same descriptor, with the whole range again


@pytest.mark.usefixtures("network")
def test_abort_leaves_nothing_and_never_raises() -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", PORT))
    sock.connect(("127.0.0.1", PORT))
    sockopt.abort(sock)
    assert leftovers() == []
    sockopt.abort(sock)
    one, other = socket.socketpair()
    sockopt.abort(one)
    assert other.recv(1) == b""
    other.close()


@pytest.mark.needs("SO_NETNS_COOKIE")
@pytest.mark.usefixtures("network")
def test_the_cookie_names_the_namespace() -> None:
    from tailbite.kernel.namespace import fresh_network

    with socket.socket() as one, socket.socket() as other:
        assert sockopt.netns_cookie(one) == sockopt.netns_cookie(other)
        with fresh_network(), socket.socket() as elsewhere:
            assert sockopt.netns_cookie(elsewhere) != sockopt.netns_cookie(one)


@pytest.mark.usefixtures("network")
def test_the_option_is_asked_of_the_kernel() -> None:
    """The answer is whether a connect stays in the range, whatever the release is."""
    with socket.socket() as sock:
        with contextlib.suppress(OSError):
            sockopt.set_local_port_range(sock, PortRange(40000, 40000))
        sock.connect_ex(("127.0.0.1", PORT))
        assert sockopt.supports_local_port_range() == (sock.getsockname()[1] == 40000)
