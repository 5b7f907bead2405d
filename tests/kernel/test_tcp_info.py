"""The counters of a connection, read of real ones: which end dialled."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from support.listeners import wait_for_client
from tailbite.kernel import tcp_info
from tailbite.kernel.sock_diag import SockDiag, TcpState
from tailbite.kernel.tcp_info import TcpInfo

pytestmark = pytest.mark.usefixtures("network")


def info_of(sock: socket.socket) -> TcpInfo:
    """Return the counters once all that was sent is acknowledged."""
    port, inode = sock.getsockname()[1], os.fstat(sock.fileno()).st_ino
    while True:
        with SockDiag() as diag:
            (found,) = (one for one in diag.listing(local_port=port).sockets if one.inode == inode)
            info = diag.traffic(found)
        assert info is not None
        if info.has_dialled is not None:
            return info


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_end_that_dialled_is_told_from_the_one_that_was_accepted(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        with socket.create_connection(server.getsockname()[:2]) as client, server.accept()[0] as accepted:
            assert (info_of(client).has_dialled, info_of(accepted).has_dialled) == (True, False)
            for size in (1, 100_000):
                for one, other in ((client, accepted), (accepted, client)):
                    one.sendall(bytes(size))
                    assert len(other.recv(size, socket.MSG_WAITALL)) == size
                assert (info_of(client).has_dialled, info_of(accepted).has_dialled) == (True, False)
            accepted.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
            assert (info_of(client).has_dialled, info_of(accepted).has_dialled) == (True, False)


@pytest.mark.parametrize(
    ("state", "acknowledged", "sent", "again", "waiting", "dialled"),
    [
        (1, 1, 0, 0, 0, True),
        (1, 0, 0, 0, 0, False),
        (1, 101, 150, 50, 0, True),
        (1, 100, 100, 0, 1, None),
        (5, 102, 100, 0, 0, True),
        (5, 101, 100, 0, 0, False),
        (4, 101, 100, 0, 0, None),
        (1, 7, 100, 0, 0, None),
    ],
)
def test_only_counters_that_add_up_tell_it(
    state: int, acknowledged: int, sent: int, again: int, waiting: int, dialled: bool | None
) -> None:
    data = bytearray(232)
    data[0] = state
    data[24:28] = waiting.to_bytes(4, sys.byteorder)
    data[120:128] = acknowledged.to_bytes(8, sys.byteorder)
    data[200:208] = sent.to_bytes(8, sys.byteorder)
    data[208:216] = again.to_bytes(8, sys.byteorder)
    assert tcp_info.decode(bytes(data)).has_dialled is dialled
    assert tcp_info.decode(bytes(data[:192])).has_dialled is None  # a kernel before Linux 4.19
    assert tcp_info.decode(bytes(data[:104])) == TcpInfo(0, None, None)


def test_a_connection_that_is_being_made_has_not_been_idle_since_the_boot() -> None:
    with socket.socket() as server, socket.socket() as first, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        first.connect(server.getsockname())
        wait_for_client(server)
        client.setblocking(False)
        client.connect_ex(server.getsockname())  # the queue is full: it stays in SYN-SENT
        with SockDiag() as diag:
            (found,) = diag.listing(local_port=client.getsockname()[1]).sockets
            info = diag.traffic(found)
    assert found.state is TcpState.SYN_SENT
    assert info is not None
    assert info.idle_ms == 0
