"""Packed addresses are what the kernel takes: a connect with them arrives where Python's own connect does."""

from __future__ import annotations

import contextlib
import socket

import pytest

from support.trap import PORT
from tailbite.kernel.libc import libc
from tailbite.kernel.sockaddr import UNSPECIFIED, pack_sockaddr


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", ("127.0.0.1", PORT)),
        ("::1", ("::1", PORT)),
        ("::1", ("::1", PORT, 0, 0)),
        ("::1", ("::1%lo", PORT, 5, 1)),
        ("::", ("::ffff:127.0.0.1", PORT)),
    ],
)
def test_a_packed_address_is_connected_to_and_dissolved(host: str, address: tuple[str, int]) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as server, socket.socket(family) as client:
        server.bind((host, PORT))
        server.listen()
        packed = pack_sockaddr(family, address)
        assert libc().connect(client.fileno(), packed, len(packed)) == 0
        assert client.getpeername()[:2] == (address[0].partition("%")[0], PORT)
        assert libc().connect(client.fileno(), UNSPECIFIED, len(UNSPECIFIED)) == 0
        with pytest.raises(OSError, match="not connected"):
            client.getpeername()


def test_a_name_is_refused() -> None:
    with pytest.raises(OSError):
        pack_sockaddr(socket.AF_INET, ("localhost", PORT))
