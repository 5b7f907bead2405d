"""The question users may ask of anything that holds a socket."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from typing import TYPE_CHECKING

import pytest

import tailbite
from conftest import find_peer
from support.own_addresses import wait_for_address
from support.trap import PORT
from tailbite.kernel.sockopt import abort

if TYPE_CHECKING:
    from collections.abc import Iterator


def connect_to_itself(family: int, host: str, *rest: int) -> socket.socket:
    sock = socket.socket(family)
    sock.bind((host, PORT, *rest))
    sock.connect((host, PORT, *rest))
    return sock


@pytest.fixture(params=["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def itself(request: pytest.FixtureRequest, network: None) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    sock = connect_to_itself(family, request.param)
    yield sock
    abort(sock)


@pytest.fixture
def pair(network: None) -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", PORT)) as server:
        client = socket.create_connection(("127.0.0.1", PORT))
        accepted, _ = server.accept()
        with client, accepted:
            yield client, accepted


def test_a_socket_and_its_descriptor(itself: socket.socket) -> None:
    assert tailbite.is_self_connected(itself)
    assert tailbite.is_self_connected(itself.fileno())
    itself.sendall(b"still open: only a copy of the descriptor was closed")


def test_anything_with_fileno(itself: socket.socket) -> None:
    with itself.makefile("rb") as stream:
        assert tailbite.is_self_connected(stream)


def test_asyncio_transports_and_writers(itself: socket.socket) -> None:
    async def compare() -> None:
        _, writer = await asyncio.open_connection(sock=itself.dup())
        assert tailbite.is_self_connected(writer)
        assert tailbite.is_self_connected(writer.transport)
        writer.transport.abort()
        await asyncio.sleep(0)

    asyncio.run(compare())


def test_an_ordinary_connection_is_not(pair: tuple[socket.socket, socket.socket]) -> None:
    assert not any(map(tailbite.is_self_connected, pair))
    assert not any(tailbite.is_self_connected(end.fileno()) for end in pair)


@pytest.mark.usefixtures("network")
def test_a_link_local_address_with_its_zone() -> None:
    import subprocess

    ip = find_peer("ip")
    for words in ("link add v0 type veth peer name v1", "link set v0 up", "link set v1 up"):
        subprocess.run([ip, *words.split()], check=True)
    subprocess.run([ip, "addr", "add", "fe80::17/64", "dev", "v0", "nodad"], check=True)
    wait_for_address("fe80::17", socket.if_nametoindex("v0"))
    sock = connect_to_itself(socket.AF_INET6, "fe80::17", 0, socket.if_nametoindex("v0"))
    assert tailbite.is_self_connected(sock)
    abort(sock)


def test_not_connected_is_not_itself() -> None:
    with socket.socket() as sock:
        assert not tailbite.is_self_connected(sock)
        assert not tailbite.is_self_connected(sock.fileno())


def test_after_it_was_reset_it_is_not_connected(itself: socket.socket) -> None:
    """connect(AF_UNSPEC) resets a connection and keeps the descriptor (connect(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.connect(itself.fileno(), bytes(16), 16) == 0
    assert not tailbite.is_self_connected(itself)


def test_what_is_not_tcp_is_not_itself() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert not tailbite.is_self_connected(one)
        assert not tailbite.is_self_connected(one.fileno())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.connect(udp.getsockname())
        assert not tailbite.is_self_connected(udp)


def test_a_closed_socket_is_an_os_error() -> None:
    sock = socket.socket()
    descriptor = sock.fileno()
    sock.close()
    with pytest.raises(OSError):
        tailbite.is_self_connected(sock)
    with pytest.raises(OSError):
        tailbite.is_self_connected(descriptor)


def test_a_descriptor_that_is_no_socket_is_an_os_error() -> None:
    with open(os.devnull) as file, pytest.raises(OSError):  # noqa: PTH123
        tailbite.is_self_connected(file.fileno())


@pytest.mark.parametrize("wrong", [None, "127.0.0.1:80", True, object()])
def test_what_holds_no_socket_is_a_type_error_that_says_what_would(wrong: object) -> None:
    with pytest.raises(TypeError, match="holds no socket"):
        tailbite.is_self_connected(wrong)


def test_a_transport_without_a_socket_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="has no socket"):
        tailbite.is_self_connected(asyncio.Transport())
