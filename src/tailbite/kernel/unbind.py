"""Unbinding of a source port that the kernel chose in bind(2), while the socket stays open.

A client that binds to port 0 before it connects has its source port, and there is no unbind(2). The kernel has
an equivalent: when a TCP socket falls back to CLOSED, it gives up its port *unless the program named that port
itself* (SOCK_BINDPORT_LOCK; inet_put_port in tcp_set_state, Linux net/ipv4/tcp.c). So a port that the
kernel chose can be unbound and one that the program chose cannot. That is the difference that matters here, and
nothing else in the kernel reveals it.

A socket that is bound only is CLOSED already, so it must leave that state first:

- a deferred connect (TCP_FASTOPEN_CONNECT with TCP_FASTOPEN_NO_COOKIE, Linux 4.15) puts it into SYN-SENT without
  sending anything: the SYN would wait for the first write. connect(AF_UNSPEC) then dissolves it (connect(2)).
- where TCP Fast Open is switched off (sysctl tcp_fastopen), listen(2) does as well. The price is that the port
  listens for some microseconds, and a connection that arrives during that time is reset.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

from tailbite.kernel.libc import last_error, libc
from tailbite.kernel.sockaddr import UNSPECIFIED, pack_sockaddr

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["source_address", "unbind_chosen_port"]

_Socket: Any = _socket.socket  # the C level: a program's class of sockets may override its methods
_TCP_FASTOPEN_CONNECT = 30
_TCP_FASTOPEN_NO_COOKIE = 34
_TCP = (6, 262)  # IPPROTO_TCP; IPPROTO_MPTCP, Linux 5.6


def unbind_chosen_port(sock: Any) -> None:
    """Unbind a bound, unconnected TCP socket from a port that the kernel chose; its address and options stay.

    A port that the program named in bind(2) stays too. ``getsockname`` returns the old port in both cases, until the
    socket is bound or connected again; bind(2) shows the difference: EINVAL if the port is still bound.

    Args:
        sock: a ``socket.socket`` of AF_INET or AF_INET6. Nothing is done elsewhere than on Linux.

    Raises:
        OSError: the socket is closed, or is not a TCP socket.
    """
    if not sys.platform.startswith("linux"):
        return
    if _Socket.getsockopt(sock, socket.SOL_SOCKET, socket.SO_PROTOCOL) not in _TCP:
        # On SCTP the listen(2) below would really open a listener, and SCTP programs may use one port at both ends
        # on purpose.
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))
    # libc's connect, not Python's: audit hooks are for connections of the program itself.
    connect = libc().connect
    descriptor = _Socket.fileno(sock)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_deferred_connect(sock))
            destination = _some_destination(sock)
            if connect(descriptor, destination, len(destination)) != 0:
                raise last_error("connect")
        except OSError:
            _Socket.listen(sock, 0)
        connect(descriptor, UNSPECIFIED, len(UNSPECIFIED))


def source_address(sock: Any, destination: bytes) -> str:
    """Return the address that a connect of an unbound TCP socket to ``destination`` would come from; nothing is sent.

    Args:
        sock: a ``socket.socket`` of AF_INET or AF_INET6 that is neither connected nor bound to a port.
        destination: a packed address, see :func:`tailbite.kernel.sockaddr.pack_sockaddr`.

    Raises:
        OSError: there is no route, or no connect can be deferred here (before Linux 4.15, or TCP Fast Open is off).
    """
    connect = libc().connect
    with _deferred_connect(sock):
        if connect(_Socket.fileno(sock), destination, len(destination)) != 0:
            raise last_error("connect")
        try:
            return str(_Socket.getsockname(sock)[0])
        finally:
            connect(_Socket.fileno(sock), UNSPECIFIED, len(UNSPECIFIED))


@contextlib.contextmanager
def _deferred_connect(sock: Any) -> Iterator[None]:
    """Have connect(2) send no SYN; the options' own values come back at the end."""
    options = (_TCP_FASTOPEN_CONNECT, _TCP_FASTOPEN_NO_COOKIE)
    before = [_Socket.getsockopt(sock, socket.IPPROTO_TCP, option) for option in options]
    try:
        for option in options:
            _Socket.setsockopt(sock, socket.IPPROTO_TCP, option, 1)
        yield
    finally:
        for option, value in zip(options, before, strict=True):
            with contextlib.suppress(OSError):
                _Socket.setsockopt(sock, socket.IPPROTO_TCP, option, value)


def _some_destination(sock: Any) -> bytes:
    """Return a sockaddr that has a route from the socket's own address: that address, or this host's loopback.

    No packet goes there, so the port does not matter, as long as it is another than the socket's own.
    """
    host, port, *rest = _Socket.getsockname(sock)
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return pack_sockaddr(_Socket.family.__get__(sock), (loopback.get(host, host), port ^ 1, *rest))
