"""The guard of a socket that cannot have a port range of its own (before Linux 6.3, and on other systems).

The audit event comes before connect(2), so a self-connect cannot be found afterwards. On Linux the guard therefore
starts the program's connect itself, without waiting for it, and compares the source port that the kernel chose with
the destination port P. On loopback the handshake takes place within that call. The program's own connect(2) then
starts no second connect: while a socket is in the state SS_CONNECTING, connect(2) ignores its address, and says how
the first connect went (``__inet_stream_connect``, Linux net/ipv4/af_inet.c).

The handshake can also come later: on a busy CPU packets of loopback wait for the kernel's thread ksoftirqd (seen on
Linux 5.10 in a virtual machine: one connect of 300), or for a queueing discipline of ``lo``. So what counts is the
port, and not that nothing has been answered yet.

=======================================  =====================================================================
the socket after the early connect       what is done
=======================================  =====================================================================
connected, from another port than P      nothing: the program's connect succeeds
refused                                  nothing: the program's connect says ECONNREFUSED
connected to itself, or not yet: its     connect(AF_UNSPEC) dissolves it and leaves nothing behind; a connect to
source port is P                         port 0, where nobody can listen, is refused in its place
not answered from another port: the      a blocking connect of the program waits for it; else connect(AF_UNSPEC), and
kernel is late, a listener's queue is    the program's connect starts again, from a port that is bound for it
full, or a firewall drops the SYN
=======================================  =====================================================================

No port is held, and no source port is spent but in the last case, so no server and no other client notices.
Destinations that are not on this host cannot be self-connects and are left alone.

An MPTCP socket has neither the port range, before Linux 6.8, nor all that the early connect needs. It is bound to
another port first, which the kernel chooses for a TCP socket. That port is then not shared between destinations.

Windows has no such state. There the socket is bound to another port first, while a second socket holds P. macOS
itself refuses to connect a socket to itself (EINVAL).
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
import select
import socket
import sys
from typing import TYPE_CHECKING, Any

from tailbite.core.address import Endpoint
from tailbite.core.plan import Means
from tailbite.kernel.libc import last_error, libc
from tailbite.kernel.sockaddr import UNSPECIFIED, pack_sockaddr
from tailbite.kernel.sockopt import IP_BIND_ADDRESS_NO_PORT
from tailbite.kernel.unbind import source_address, unbind_chosen_port

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["connect_early", "protect"]

_Socket: Any = _socket.socket
_fileno = _Socket.fileno
_getsockname = _Socket.getsockname
_getsockopt = _Socket.getsockopt
_setsockopt = _Socket.setsockopt
_IP, _TCP, _SOCKET = int(socket.IPPROTO_IP), int(socket.IPPROTO_TCP), int(socket.SOL_SOCKET)
_INET = int(socket.AF_INET)
_MPTCP = 262  # IPPROTO_MPTCP, include/uapi/linux/in.h
_TCP_INFO = 11  # its first byte is the state, include/uapi/linux/tcp.h
_TCP_FASTOPEN_CONNECT = 30
_ESTABLISHED, _CLOSE = 1, 7  # include/net/tcp_states.h
_MOST_DRAWS = 64
_LONGEST_ANSWER_MS = 1000


def protect(sock: Any, address: Any, port: int, *, has_other_port: bool) -> Means | None:
    """Keep ``sock`` from connecting to itself without a port range of its own; return the means, None for nothing.

    Args:
        sock: an instance of ``_socket.socket`` for TCP over AF_INET or AF_INET6.
        address: the address that the program is about to connect to.
        port: its port.
        has_other_port: False if the ephemeral range consists of ``port`` alone.

    Raises:
        OSError: EADDRNOTAVAIL, no other source port is left.
    """
    if sys.platform.startswith("linux"):
        if _getsockopt(sock, _SOCKET, socket.SO_PROTOCOL) == _MPTCP:
            return _bind_like_tcp(sock, address, port)
        return connect_early(sock, address, port, has_other_port=has_other_port)
    return None if sys.platform == "darwin" else _bind_elsewhere(sock, port)


def connect_early(sock: Any, address: Any, port: int, *, has_other_port: bool) -> Means | None:
    """Start the program's connect, and undo it if the socket is connected to itself (Linux); see :func:`protect`.

    Raises:
        OSError: EADDRNOTAVAIL, no other source port is left.
    """
    if not _is_unused(sock):
        return None
    name = _getsockname(sock)
    if name[1] and _is_bound(sock, port):
        return Means.CHECK if name[1] == port else None
    destination = _destination_here(sock, address, port)
    if destination is None:
        return None
    for _ in range(_MOST_DRAWS):
        if not _begin(sock, destination):
            return None
        if _is_harmless(sock, destination, port, has_other_port=has_other_port):
            return Means.RESET
    raise _no_port_left()


def _is_harmless(sock: Any, destination: Any, port: int, *, has_other_port: bool) -> bool:
    """Inspect the early connect; False if the program's connect needs another source port.

    Raises:
        OSError: EADDRNOTAVAIL, no other source port is left.
    """
    name = _getsockname(sock)
    if name[1] != port and _state(sock) in (_ESTABLISHED, _CLOSE):
        return True
    here, there = Endpoint.from_sockaddr(name), Endpoint.from_sockaddr(destination)
    can_be_itself = there.is_wildcard or here.host == there.host
    if can_be_itself and name[1] == port:
        _dissolve(sock)
        if not has_other_port:
            raise _no_port_left()
        _begin(sock, (destination[0], 0, *destination[2:]))
        _await_answer(sock)
        return True
    if _state(sock) in (_ESTABLISHED, _CLOSE) or _will_wait(sock):
        return True
    _dissolve(sock)
    return not can_be_itself or _bind_elsewhere_than(sock, name, port)


def _will_wait(sock: Any) -> bool:
    """Tell whether the program's connect will wait for the connect that is under way: other errors are not its own.

    Without waiting, or after a timeout of SO_SNDTIMEO, it says EALREADY where a connect of its own says EINPROGRESS.
    """
    return os.get_blocking(_fileno(sock)) and not any(_getsockopt(sock, _SOCKET, socket.SO_SNDTIMEO, 16))


def _bind_elsewhere_than(sock: Any, name: Any, port: int) -> bool:
    """Bind a socket to a port that is neither P nor that of the SYN under way, whose answer would disturb.

    Where there is no third port, the second is better than P; False if another socket has that one too.
    """
    for _ in range(_MOST_DRAWS):
        if not _bind(sock, (name[0], 0, *name[2:])):
            break
        if _getsockname(sock)[1] not in (port, name[1]):
            return True
        unbind_chosen_port(sock)
    return _bind(sock, name)


def _bind(sock: Any, name: Any) -> bool:
    """Bind a socket with libc's bind, without an audit event; True if that worked."""
    packed = pack_sockaddr(_Socket.family.__get__(sock), name)
    return bool(libc().bind(_fileno(sock), packed, len(packed)) == 0)


def _await_answer(sock: Any) -> None:
    """Wait for the answer to a SYN that only this host can answer, at most a second."""
    poll = select.poll()
    poll.register(_fileno(sock), select.POLLOUT)
    poll.poll(_LONGEST_ANSWER_MS)


def _bind_like_tcp(sock: Any, address: Any, port: int) -> Means | None:
    """Bind an MPTCP socket to a port other than ``port`` that the kernel has just chosen for a TCP socket.

    Raises:
        OSError: EADDRNOTAVAIL, no other source port is left; EMFILE, no descriptor is left.
    """
    if _destination_here(sock, address, port) is None:
        return None
    host, before, *rest = _getsockname(sock)
    if before == port:
        unbind_chosen_port(sock)
    chosen = 0 if before == port else before  # after a refused connect it is only the port that was tried
    for _ in range(_MOST_DRAWS):
        chosen = chosen or _free_port(sock, (host, 0, *rest), port)
        if _bind(sock, (host, chosen, *rest)):
            return Means.BIND
        if last_error("bind").errno == errno.EINVAL:  # it has a port, or is connected
            return Means.CHECK if before == port else None
        chosen = 0
    raise _no_port_left()


def _free_port(sock: Any, name: Any, port: int) -> int:
    """Return a port other than ``port`` that nobody has at the address of ``name``.

    Raises:
        OSError: EADDRINUSE, the range has no other; EMFILE, no descriptor is left.
    """
    family = _Socket.family.__get__(sock)
    with contextlib.ExitStack() as stack:
        for _ in range(2):  # the first keeps the port if it was given just that one
            other = stack.enter_context(contextlib.closing(_Socket(family, socket.SOCK_STREAM)))
            if not _bind(other, name):
                raise last_error("bind")
            if (chosen := int(_getsockname(other)[1])) != port:
                return chosen
    raise _no_port_left()


def _is_unused(sock: Any) -> bool:
    """Tell whether no connect is under way, and the program knows of each that has failed."""
    if _state(sock) != _CLOSE:
        return False
    poll = select.poll()
    poll.register(_fileno(sock), 0)
    return not any(events & select.POLLERR for _, events in poll.poll(0))


def _state(sock: Any) -> int:
    return int(_getsockopt(sock, _TCP, _TCP_INFO, 1)[0])


def _is_bound(sock: Any, port: int) -> bool:
    """Tell whether the socket still has a port after ``port``, if the kernel chose it in bind(2), was unbound.

    ``getsockname`` cannot tell: after a refused connect it returns the port that was tried. bind(2) can: EINVAL says
    that the socket has a port. Here it binds no port, only the address that the socket has anyway.
    """
    name = _getsockname(sock)
    if name[1] == port:
        unbind_chosen_port(sock)
    packed = pack_sockaddr(_Socket.family.__get__(sock), (name[0], 0, *name[2:]))
    before = _getsockopt(sock, _IP, IP_BIND_ADDRESS_NO_PORT)
    _setsockopt(sock, _IP, IP_BIND_ADDRESS_NO_PORT, 1)
    try:
        return libc().bind(_fileno(sock), packed, len(packed)) != 0 and last_error("bind").errno == errno.EINVAL
    finally:
        _setsockopt(sock, _IP, IP_BIND_ADDRESS_NO_PORT, before)


def _destination_here(sock: Any, address: Any, port: int) -> Any:
    """Return the numeric address that connect(2) would connect to, None if it is not on this host.

    A name is resolved as connect(2)'s wrapper in Python does it, and the first address counts. As bytes it needs no
    codec of Python, whose first use takes a descriptor that this process may not have.
    """
    family = _Socket.family.__get__(sock)
    host = address[0]
    if not host:
        host = "0.0.0.0" if family == _INET else "::"
    if isinstance(host, str) and host.isascii():
        host = host.encode("ascii")
    try:
        found = _socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4]
    except (OSError, UnicodeError):
        return None  # connect(2)'s wrapper says what is wrong; "<broadcast>" is not for TCP
    if len(address) > 2 and len(found) == 4:
        found = (found[0], port, *(*address[2:], found[3])[:2])
    there = Endpoint.from_sockaddr(found)
    if there.is_wildcard or there.host == "::1" or there.host.startswith("127."):
        return found
    try:
        source = source_address(sock, pack_sockaddr(family, found))
    except OSError:
        return found  # not known: then one SYN more goes to another host
    return found if Endpoint.from_sockaddr((source, 0)).host == there.host else None


def _begin(sock: Any, destination: Any) -> bool:
    """Start a connect without waiting; False if it failed at once, so that the program's own says why.

    libc's connect, not Python's: audit hooks are for connections of the program itself.
    """
    descriptor = _fileno(sock)
    packed = pack_sockaddr(_Socket.family.__get__(sock), destination)
    number = errno.ECONNABORTED
    with _without_waiting(sock):
        for _ in range(2):
            if number == errno.ECONNABORTED:  # the end of an earlier connect whose error the program has read
                is_done = libc().connect(descriptor, packed, len(packed)) == 0
                number = 0 if is_done else last_error("connect").errno or 0
    if number == errno.EADDRNOTAVAIL:
        raise _no_port_left()
    return number in (0, errno.EINPROGRESS)


@contextlib.contextmanager
def _without_waiting(sock: Any) -> Iterator[None]:
    """Have connect(2) start at once and not wait: non-blocking, and not deferred to the first write."""
    descriptor = _fileno(sock)
    is_blocking = os.get_blocking(descriptor)
    is_deferred = _getsockopt(sock, _TCP, _TCP_FASTOPEN_CONNECT)
    os.set_blocking(descriptor, False)
    if is_deferred:
        _setsockopt(sock, _TCP, _TCP_FASTOPEN_CONNECT, 0)
    try:
        yield
    finally:
        os.set_blocking(descriptor, is_blocking)
        if is_deferred:
            with contextlib.suppress(OSError):  # only a closed socket takes the option; else it is no longer needed
                _setsockopt(sock, _TCP, _TCP_FASTOPEN_CONNECT, is_deferred)


def _dissolve(sock: Any) -> None:
    libc().connect(_fileno(sock), UNSPECIFIED, len(UNSPECIFIED))


def _no_port_left() -> OSError:
    return OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


def _bind_elsewhere(sock: Any, port: int) -> Means | None:
    """Bind an unbound socket to another port than ``port``, while a second socket keeps that one away."""
    try:
        before = _getsockname(sock)[1]
    except OSError:  # Windows: not bound
        before = 0
    if before:
        return Means.CHECK if before == port else None
    family = _Socket.family.__get__(sock)
    anywhere = "" if family == _INET else "::"
    with contextlib.closing(_Socket(family, socket.SOCK_STREAM)) as holder:
        with contextlib.suppress(OSError):  # another program has the port, so the kernel does not choose it
            holder.bind((anywhere, port))
        _Socket.bind(sock, (anywhere, 0))
    if _getsockname(sock)[1] == port:
        raise _no_port_left()
    return Means.BIND
