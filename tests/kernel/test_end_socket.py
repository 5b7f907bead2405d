"""A self-connected socket is ended in the way that the kernel knows, and no other socket in its place."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from support.old_kernel import refuse_to_destroy
from support.trap import PORT, leftovers, server_can_bind, wait_for_time_wait
from tailbite.errors import NetlinkError
from tailbite.kernel import end_socket
from tailbite.kernel.end_socket import LACKS_DESTROY, end_self_connect
from tailbite.kernel.sock_diag import SockDiag, TcpState
from tailbite.kernel.sockopt import abort
from tailbite.kernel.tcp_repair import replace_time_wait

if TYPE_CHECKING:
    from tailbite.core.address import Endpoint

pytestmark = [pytest.mark.usefixtures("network"), pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")]


def connected_to_itself(device: str = "") -> socket.socket:
    sock = socket.socket()
    if device:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    sock.bind(("127.0.0.1", PORT))
    sock.connect(("127.0.0.1", PORT))
    return sock


@pytest.mark.parametrize("device", ["", "lo"])
@pytest.mark.parametrize("refused", [(TcpState.TIME_WAIT,), ()], ids=["TIME-WAIT", "any state"])
def test_a_time_wait_that_the_kernel_does_not_destroy_is_ended(
    monkeypatch: pytest.MonkeyPatch, refused: tuple[TcpState, ...], device: str
) -> None:
    refuse_to_destroy(monkeypatch, *refused)
    connected_to_itself(device).close()
    wait_for_time_wait()
    assert not server_can_bind(reuse=True)
    with SockDiag() as diag:
        end_self_connect(diag, leftovers()[0])
    assert leftovers() == []
    assert server_can_bind()


@pytest.mark.needs("SOCK_DESTROY")
def test_a_connection_is_destroyed_and_one_that_has_ended_is_no_error() -> None:
    with connected_to_itself() as sock, SockDiag() as diag:
        (listed,) = leftovers()
        end_self_connect(diag, listed)
        with pytest.raises(ConnectionAbortedError):
            sock.sendall(b"x")
        end_self_connect(diag, listed)


@pytest.mark.needs("SOCK_DESTROY")
def test_another_connection_at_the_same_endpoints_is_left_alone() -> None:
    sock = connected_to_itself()
    (before,) = leftovers()
    abort(sock)
    with connected_to_itself(), SockDiag() as diag:
        end_self_connect(diag, before)
        assert [left.state for left in leftovers()] == [TcpState.ESTABLISHED]


def test_a_connection_that_the_kernel_does_not_destroy_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_destroy(monkeypatch)
    with connected_to_itself(), SockDiag() as diag:
        with pytest.raises(NetlinkError) as refused:
            end_self_connect(diag, leftovers()[0])
        assert refused.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize("number", sorted(LACKS_DESTROY))
def test_a_time_wait_is_ended_whatever_a_kernel_without_sock_destroy_answers(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse_to_destroy(monkeypatch, number=number)
    connected_to_itself().close()
    wait_for_time_wait()
    with SockDiag() as diag:
        assert end_self_connect(diag, leftovers()[0])
    assert leftovers() == []


@pytest.mark.parametrize("still_there", [False, True])
def test_what_the_kernel_does_not_find_has_ended_unless_it_lists_it(
    monkeypatch: pytest.MonkeyPatch, still_there: bool
) -> None:
    refuse_to_destroy(monkeypatch, number=errno.ENOENT)
    sock = connected_to_itself()
    (listed,) = leftovers()
    with sock, SockDiag() as diag:
        if still_there:
            with pytest.raises(NetlinkError):
                end_self_connect(diag, listed)
        else:
            abort(sock)
            assert end_self_connect(diag, listed) is False


@pytest.mark.parametrize("still_there", [False, True])
def test_a_refused_tcp_repair_is_an_error_only_if_the_time_wait_is_left(
    monkeypatch: pytest.MonkeyPatch, still_there: bool
) -> None:
    def refuse(end: Endpoint, family: int, *, interface: int) -> None:
        if not still_there:
            replace_time_wait(end, family, interface=interface)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    refuse_to_destroy(monkeypatch)
    monkeypatch.setattr(end_socket, "replace_time_wait", refuse)
    connected_to_itself().close()
    wait_for_time_wait()
    with SockDiag() as diag:
        if still_there:
            with pytest.raises(PermissionError):
                end_self_connect(diag, leftovers()[0])
        else:
            assert end_self_connect(diag, leftovers()[0]) is False
