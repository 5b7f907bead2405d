"""sock_diag on the live kernel, and its codec against arbitrary bytes."""

from __future__ import annotations

import errno
import os
import socket
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.guarded import wait_until
from support.trap import PORT, server_can_bind, wait_for_time_wait
from support.users import python_as_nobody
from tailbite.core.address import Endpoint, FourTuple
from tailbite.core.ports import PortRange
from tailbite.errors import NetlinkError
from tailbite.kernel.sock_diag import SockDiag, TcpSocket, TcpState, decode, encode_request
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range


def test_a_state_that_is_none_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        decode(bytes([socket.AF_INET, 99]) + bytes(70))


def itself(host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, PORT))
    sock.connect((host, PORT))
    return sock


def dump() -> list[TcpSocket]:
    with SockDiag() as diag:
        return list(diag.dump())


@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_a_socket_or_a_value_error(data: bytes) -> None:
    try:
        decode(data)
    except ValueError:
        return
    assert len(data) >= 72


@given(
    family=st.sampled_from([socket.AF_INET, socket.AF_INET6]),
    state=st.sampled_from(list(TcpState)),
    tail=st.binary(min_size=70, max_size=70),
)
def test_whatever_the_fields_hold_they_are_within_their_bounds(family: int, state: TcpState, tail: bytes) -> None:
    found = decode(bytes([family, state]) + tail)
    assert found.state is (TcpState.BOUND_INACTIVE if state is TcpState.CLOSE else state)
    for end in (found.endpoints.local, found.endpoints.remote):
        assert 0 <= end.port <= 65535
        assert (":" in end.host) <= (family == socket.AF_INET6)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_self_connect_is_listed_and_found_by_its_endpoints(host: str) -> None:
    sock = itself(host)
    with SockDiag() as diag:
        (listed,) = [found for found in diag.dump() if found.is_self_connected]
        found = diag.find(listed.family, listed.endpoints)
        assert found == listed
        assert listed.state is TcpState.ESTABLISHED
        assert listed.inode == os.fstat(sock.fileno()).st_ino
        assert listed.uid == os.getuid()
        assert listed.endpoints.local == Endpoint.from_sockaddr(sock.getsockname())
    abort(sock)
    with SockDiag() as diag:
        assert diag.find(listed.family, listed.endpoints) is None


@pytest.mark.usefixtures("network")
def test_bytes_that_were_not_read_are_counted() -> None:
    sock = itself()
    sock.sendall(b"12345")
    wait_until(lambda: [(each.receive_queue, each.send_queue) for each in dump()] == [(5, 0)], "the bytes arrive")
    abort(sock)


@pytest.mark.usefixtures("network")
def test_what_a_close_leaves_is_time_wait_with_its_remaining_time() -> None:
    itself().close()
    wait_for_time_wait()
    (left,) = dump()
    assert left.is_self_connected
    assert 0 < left.expires_ms <= 60_000


@pytest.mark.needs("BOUND_SOCKETS_LISTED")
@pytest.mark.usefixtures("network")
def test_listeners_and_bound_sockets_are_listed_and_are_not_self_connected() -> None:
    with socket.create_server(("0.0.0.0", PORT)), socket.socket() as bound:
        bound.bind(("127.0.0.1", PORT + 1))
        states = {found.endpoints.local.port: found for found in dump()}
    assert states[PORT].state is TcpState.LISTEN
    assert states[PORT + 1].state is TcpState.BOUND_INACTIVE
    assert not any(found.is_self_connected for found in states.values())


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    "closed",
    [
        pytest.param(False, marks=pytest.mark.needs("SOCK_DESTROY"), id="ESTABLISHED"),
        pytest.param(True, marks=pytest.mark.needs("SOCK_DESTROY_TIME_WAIT"), id="TIME-WAIT"),
    ],
)
def test_destroying_it_frees_the_port_and_the_owner_is_told(closed: bool) -> None:
    """Of a port the kernel drew: one that was bound explicitly stays the owner's until the owner closes it."""
    write_ephemeral_range(PortRange(PORT, PORT + 1))
    sock = socket.socket()
    while sock.connect_ex(("127.0.0.1", PORT)) != 0:
        sock.close()
        sock = socket.socket()
    if closed:
        sock.close()
        wait_for_time_wait()
    with SockDiag() as diag:
        (target,) = diag.dump()
        diag.destroy(target)
        assert list(diag.dump()) == []
        if not closed:
            with pytest.raises(ConnectionAbortedError):
                sock.recv(1)
            sock.close()
        assert server_can_bind()
        with pytest.raises(NetlinkError) as gone:
            diag.destroy(target)
        assert gone.value.errno == errno.ENOENT


@pytest.mark.needs("SOCK_DESTROY")
@pytest.mark.usefixtures("network")
@pytest.mark.skipif(os.geteuid() != 0, reason="is about losing root's capability")
def test_destroying_without_the_capability_is_refused_and_listing_is_not() -> None:
    sock = itself()
    code = (
        "from tailbite.kernel.sock_diag import SockDiag\n"
        "from tailbite.errors import NetlinkError\n"
        "with SockDiag() as diag:\n"
        "    (target,) = diag.dump()\n"
        "    try: diag.destroy(target)\n"
        "    except NetlinkError as error: print(error.errno)\n"
    )
    done = subprocess.run(python_as_nobody("-c", code), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(errno.EPERM)
    abort(sock)


def test_an_endpoint_of_the_other_family_is_a_value_error() -> None:
    ends = FourTuple(Endpoint("::1", 1), Endpoint("::1", 2))
    with pytest.raises(ValueError, match="AF_INET"):
        encode_request(socket.AF_INET, endpoints=ends)


def test_states_are_spelled_as_the_rfc_does() -> None:
    assert {state.label for state in TcpState} >= {"SYN-SENT", "SYN-RECEIVED", "FIN-WAIT-1", "TIME-WAIT", "LISTEN"}
