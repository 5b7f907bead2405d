"""Every way a TCP port can be held, each produced for real in the calling thread's network namespace.

Loopback delivers in a softirq, perhaps later than the call that sent: a holder is there once its state is.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.guarded import wait_until
from support.listeners import wait_for_client
from tailbite.core.ports import PortRange
from tailbite.kernel.libc import libc
from tailbite.kernel.sock_diag import SockDiag, TcpState
from tailbite.kernel.sockaddr import UNSPECIFIED
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IPPROTO_MPTCP = 262
DEFAULT_RANGE = PortRange(32768, 60999)
V6_ONLY = "::/v6only"
"""A server on ``::`` that sets IPV6_V6ONLY."""


@dataclass(frozen=True)
class Holder:
    """One holder of a port: a kind, an address, and whether its sockets have SO_REUSEADDR."""

    kind: str
    host: str
    reuse: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.host}{' reuse' if self.reuse else ''}"

    @contextlib.contextmanager
    def held(self, port: int) -> Iterator[None]:
        """Hold the port meanwhile."""
        sockets = KINDS[self.kind](self.host, port, self.reuse)
        try:
            yield
        finally:
            for sock in sockets:
                abort(sock)


def plain(host: str) -> str:
    """Return the address alone: of ``V6_ONLY``, ``::``."""
    return host.partition("/")[0]


def new_socket(host: str, *, reuse: bool) -> socket.socket:
    """Return a socket of the address's family; ``::ffff:`` addresses and ``::`` are AF_INET6."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
    if host == V6_ONLY:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def server_binds(host: str, port: int, *, reuse: bool) -> bool:
    """Start as a server does, bind and listen; True if that works, False if the address is in use."""
    with contextlib.closing(new_socket(host, reuse=reuse)) as server:
        try:
            server.bind((plain(host), port))
            server.listen()
        except OSError as error:
            assert error.errno == errno.EADDRINUSE, error
            return False
        return True


def bound(host: str, port: int, reuse: bool) -> list[socket.socket]:
    sock = new_socket(host, reuse=reuse)
    sock.bind((plain(host), port))
    return [sock]


def listening(host: str, port: int, reuse: bool) -> list[socket.socket]:
    (sock,) = bound(host, port, reuse)
    sock.listen()
    return [sock]


def listening_on_lo(host: str, port: int, reuse: bool) -> list[socket.socket]:
    """A listener that is bound to a device."""
    sock = new_socket(host, reuse=reuse)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    sock.bind((plain(host), port))
    sock.listen()
    return [sock]


def listening_with_mptcp(host: str, port: int, reuse: bool) -> list[socket.socket]:
    (sock,) = _bound_with_mptcp(host, port, reuse)
    sock.listen()
    return [sock]


def _bound_with_mptcp(host: str, port: int, reuse: bool) -> list[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
    if host == V6_ONLY:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((plain(host), port))
    return [sock]


def has_mptcp() -> bool:
    """Tell whether this kernel makes MPTCP sockets (Linux 5.6, net.mptcp.enabled)."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError:
        return False
    return True


def listening_with_reuse_port(host: str, port: int, reuse: bool) -> list[socket.socket]:
    sock = new_socket(host, reuse=reuse)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((plain(host), port))
    sock.listen()
    return [sock]


def dialling(host: str, port: int, reuse: bool) -> list[socket.socket]:
    """A client in SYN-SENT, from the port that it bound: the queue of the server is full."""
    server = new_socket(host, reuse=False)
    server.bind((plain(host), 0))
    server.listen(0)
    goal = server.getsockname()[:2]
    first = new_socket(host, reuse=False)
    first.connect(goal)
    wait_for_client(server)
    (client,) = bound(host, port, reuse)
    client.setblocking(False)
    client.connect_ex(goal)
    return [client, first, server]


def self_bound(host: str, port: int, reuse: bool) -> list[socket.socket]:
    (sock,) = bound(host, port, reuse)
    sock.connect((plain(host), port))
    return [sock]


def self_shut_down(host: str, port: int, reuse: bool) -> list[socket.socket]:
    """A self-connect that has ended, whose program still has the socket, which it had bound."""
    (sock,) = self_bound(host, port, reuse)
    sock.shutdown(socket.SHUT_WR)
    wait_for_state(TcpState.TIME_WAIT, port)
    return [sock]


def self_chosen(host: str, port: int, reuse: bool) -> list[socket.socket]:
    return [_connect_from(host, port, port, reuse)]


def self_bound_time_wait(host: str, port: int, reuse: bool) -> list[socket.socket]:
    self_bound(host, port, reuse)[0].close()
    wait_for_state(TcpState.TIME_WAIT, port)
    return []


def self_chosen_time_wait(host: str, port: int, reuse: bool) -> list[socket.socket]:
    self_chosen(host, port, reuse)[0].close()
    wait_for_state(TcpState.TIME_WAIT, port)
    return []


def accepted(host: str, port: int, reuse: bool) -> list[socket.socket]:
    """A connection of a server that listens no more."""
    client, connection = _conversation(host, port, reuse)
    return [connection, client]


def accepted_time_wait(host: str, port: int, reuse: bool) -> list[socket.socket]:
    client, connection = _conversation(host, port, reuse)
    close_in_turn(connection, client)
    wait_for_state(TcpState.TIME_WAIT, port)
    return []


def accepted_fin_wait(host: str, port: int, reuse: bool) -> list[socket.socket]:
    """A server closed its side, and no process has that socket any longer; the client does not close."""
    client, connection = _conversation(host, port, reuse)
    connection.close()
    wait_for_state(TcpState.FIN_WAIT2, port)
    return [client]


def accepted_close_wait(host: str, port: int, reuse: bool) -> list[socket.socket]:
    """The client closed its side, and the server that no longer listens does not notice."""
    client, connection = _conversation(host, port, reuse)
    client.close()
    wait_for_state(TcpState.CLOSE_WAIT, port)
    return [connection]


def source_bound(host: str, port: int, reuse: bool) -> list[socket.socket]:
    """A client's connection to another port, from the port that it bound."""
    server = _server(host)
    (client,) = bound(host, port, reuse)
    client.connect(server.getsockname()[:2])
    return [client, server.accept()[0], server]


def source_fin_wait(host: str, port: int, reuse: bool) -> list[socket.socket]:
    """A client closed its side, and no process has that socket any longer; the server does not close."""
    client, connection, server = source_bound(host, port, reuse)
    client.close()
    wait_for_state(TcpState.FIN_WAIT2, port)
    return [connection, server]


def source_disconnected(host: str, port: int, reuse: bool) -> list[socket.socket]:
    """A client that bound its source port and aborted the connection, and keeps the socket."""
    client, connection, server = source_bound(host, port, reuse)
    assert libc().connect(client.fileno(), UNSPECIFIED, len(UNSPECIFIED)) == 0
    return [client, connection, server]


def source_destroyed(host: str, port: int, reuse: bool) -> list[socket.socket]:
    """A client that bound its source port, whose connection was destroyed, and which keeps the socket."""
    sockets = source_bound(host, port, reuse)
    with SockDiag() as diag:
        for one in diag.listing((TcpState.ESTABLISHED,), local_port=port).sockets:
            diag.destroy(one)
    return sockets


def source_bound_with_mptcp(host: str, port: int, reuse: bool) -> list[socket.socket]:
    server = _server(host)
    (client,) = _bound_with_mptcp(host, port, reuse)
    client.connect(server.getsockname()[:2])
    return [client, server.accept()[0], server]


def source_chosen(host: str, port: int, reuse: bool) -> list[socket.socket]:
    """A client's connection to another port, from the port that the kernel chose."""
    server = _server(host)
    client = _connect_from(host, server.getsockname()[1], port, reuse)
    return [client, server.accept()[0], server]


def source_chosen_time_wait(host: str, port: int, reuse: bool) -> list[socket.socket]:
    client, connection, server = source_chosen(host, port, reuse)
    close_in_turn(client, connection)
    wait_for_state(TcpState.TIME_WAIT, port)
    return [server]


def wait_for_state(state: TcpState, port: int) -> None:
    """Wait until a socket whose local port this is has the state."""

    def is_there() -> bool:
        with SockDiag() as diag:
            return any(found.state is state for found in diag.listing(local_port=port).sockets)

    wait_until(is_there, f"a socket of port {port} is in {state.label}")


def close_in_turn(first: socket.socket, other: socket.socket) -> None:
    """Close both ends of a connection; if they closed at the same time, both would go through TIME-WAIT."""
    first.close()
    other.settimeout(60)
    assert other.recv(1) == b"", "its FIN came first"
    other.close()


def _conversation(host: str, port: int, reuse: bool) -> tuple[socket.socket, socket.socket]:
    (server,) = listening(host, port, reuse)
    client = new_socket(host, reuse=False)
    client.connect((plain(host), port))
    connection, _ = server.accept()
    server.close()
    return client, connection


def _server(host: str) -> socket.socket:
    server = new_socket(host, reuse=False)
    server.bind((plain(host), 0))
    server.listen()
    return server


def _connect_from(host: str, goal: int, source: int, reuse: bool) -> socket.socket:
    """Connect while the ephemeral range is one port."""
    write_ephemeral_range(PortRange(source, source))
    sock = new_socket(host, reuse=reuse)
    try:
        sock.connect((plain(host), goal))
    finally:
        write_ephemeral_range(DEFAULT_RANGE)
    return sock


KINDS: dict[str, Callable[[str, int, bool], list[socket.socket]]] = {
    made.__name__: made
    for made in (
        bound,
        listening,
        listening_on_lo,
        listening_with_reuse_port,
        *((listening_with_mptcp, source_bound_with_mptcp) if has_mptcp() else ()),
        dialling,
        self_bound,
        self_shut_down,
        self_chosen,
        self_bound_time_wait,
        self_chosen_time_wait,
        accepted,
        accepted_time_wait,
        accepted_fin_wait,
        accepted_close_wait,
        source_bound,
        source_fin_wait,
        source_disconnected,
        source_destroyed,
        source_chosen,
        source_chosen_time_wait,
    )
}
