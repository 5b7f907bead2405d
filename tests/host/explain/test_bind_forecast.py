"""What is forecast of a server's bind is what the kernel then does, for every way a port can be held."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING

import pytest

from tailbite.host.explain.bind_forecast import Answer, forecast
from tailbite.kernel.sock_diag import SockDiag
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_sysctl

if TYPE_CHECKING:
    from collections.abc import Callable

PORT = 7000


def new(host: str, *, reuse: bool) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
    return sock


def bound(host: str, reuse: bool) -> list[socket.socket]:
    sock = new(host, reuse=reuse)
    sock.bind((host, PORT))
    return [sock]


def bound_v6_only(host: str, reuse: bool) -> list[socket.socket]:
    sock = new(host, reuse=reuse)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((host, PORT))
    return [sock]


def listening(host: str, reuse: bool) -> list[socket.socket]:
    (sock,) = bound(host, reuse)
    sock.listen()
    return [sock]


def self_connected(host: str, reuse: bool) -> list[socket.socket]:
    (sock,) = bound(host, reuse)
    sock.connect((host, PORT))
    return [sock]


def drawn_self_connect(host: str, reuse: bool) -> list[socket.socket]:
    write_sysctl("ip_local_port_range", f"{PORT} {PORT}")
    sock = new(host, reuse=reuse)
    sock.connect((host, PORT))
    return [sock]


def time_wait(host: str, reuse: bool) -> list[socket.socket]:
    self_connected(host, reuse)[0].close()
    return []


def accepted(host: str, reuse: bool) -> list[socket.socket]:
    """A connection of a server that listens no more."""
    (server,) = listening(host, reuse)
    client = new(host, reuse=False)
    client.connect((host, PORT))
    connection, _ = server.accept()
    server.close()
    return [connection, client]


def source_port(host: str, reuse: bool) -> list[socket.socket]:
    """A client's connection to another port."""
    server = new(host, reuse=False)
    server.bind((host, PORT + 1))
    server.listen()
    (client,) = bound(host, reuse)
    client.connect((host, PORT + 1))
    return [client, server, server.accept()[0]]


HOLDS: list[tuple[Callable[[str, bool], list[socket.socket]], str]] = [
    *[(hold, host) for hold in (bound, listening) for host in ("0.0.0.0", "127.0.0.1", "::", "::1")],
    (bound_v6_only, "::"),
    *[
        (hold, host)
        for hold in (self_connected, drawn_self_connect, time_wait, accepted, source_port)
        for host in ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    ],
]


def bind_works(host: str, *, reuse: bool) -> bool:
    with contextlib.closing(new(host, reuse=reuse)) as server:
        try:
            server.bind((host, PORT))
            server.listen()
        except OSError as error:
            assert error.errno == errno.EADDRINUSE
            return False
        return True


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("theirs", [False, True], ids=["", "it-reuses"])
@pytest.mark.parametrize(("hold", "holder"), HOLDS, ids=lambda value: getattr(value, "__name__", value))
def test_the_forecast_comes_true(hold: Callable[[str, bool], list[socket.socket]], holder: str, theirs: bool) -> None:
    held = hold(holder, theirs)
    try:
        with SockDiag() as diag:
            sockets = diag.listing(local_port=PORT).sockets
        assert sockets
        for host in ("0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1"):
            seen = forecast(host, sockets)
            for reuse, answer in ((False, seen.plain), (True, seen.reusing)):
                if answer is Answer.MAYBE:  # an IPv4 wildcard beside an IPv6 connection
                    assert bind_works(host, reuse=reuse) == (hold is not drawn_self_connect or (reuse and theirs))
                    continue
                works = answer is Answer.YES or (answer is Answer.UNLESS and theirs)
                assert bind_works(host, reuse=reuse) == works, (host, reuse, answer, sockets)
    finally:
        for sock in held:
            abort(sock)


@pytest.mark.usefixtures("network")
def test_a_port_that_nobody_has_can_be_bound() -> None:
    for host in ("0.0.0.0", "127.0.0.1", "::", "::1"):
        assert forecast(host, ()).plain is forecast(host, ()).reusing is Answer.YES
        assert bind_works(host, reuse=False)
