"""One socket on its way to one address: apply the plan, connect (the shell does), check, abort.

The shells differ only in how they wait for connect(2), so everything around it is here::

    attempt = Attempt(family, type, proto, destination, source)
    while True:
        try:
            ... connect attempt.sock to destination, waiting in the shell's way ...
            break
        except OSError as error:
            attempt.failed(error)       # raises, unless the other sub-range is still to try
    sock = attempt.finish()             # raises SelfConnectError if the socket is connected to itself

Why abort and not close: a closed self-connect leaves TIME-WAIT on P <-> P, and for a minute no server can bind P,
with or without SO_REUSEADDR. A reset leaves nothing (RFC 9293 section 3.10.5; measured, ``docs/architecture.md``).
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from random import random
from typing import Any, Final, cast

from tailbite.connect.facts import plan_for
from tailbite.core.address import Endpoint, is_self
from tailbite.core.plan import HostFacts as _HostFacts
from tailbite.core.plan import Means, Plan, plan, would_be_self
from tailbite.errors import SelfConnectError, SourcePortError
from tailbite.kernel.sockopt import IP_LOCAL_PORT_RANGE, abort, leave_port_to_connect

__all__ = [
    "DEFAULT_TIMEOUT",
    "Attempt",
    "abort_if_self_connected",
    "connect_call",
    "connect_unix",
    "connected_at_once",
    "named",
    "self_connected_endpoints",
]

# The same object as in the socket module: http.client and urllib3 pass it on as "not given".
DEFAULT_TIMEOUT: Final = cast(float, socket._GLOBAL_DEFAULT_TIMEOUT)  # type: ignore[attr-defined]

_STEER = Means.STEER
_IP = int(socket.IPPROTO_IP)
_LINUX = sys.platform.startswith("linux")
_INTERNET = (socket.AF_INET, socket.AF_INET6)
_UNKNOWN = _HostFacts(None, False)


class Attempt:
    """A socket for one destination, prepared so that its source port is not the destination's.

    Attributes:
        sock: the socket to connect; blocking, without a timeout, unless the default timeout says otherwise.
        plan: the plan that was applied to the socket.

    Args:
        family: AF_INET or AF_INET6 (a socket of any other family is connected as it is).
        kind: SOCK_STREAM.
        proto: a protocol number, 0 for the default.
        destination: the sockaddr the socket will be connected to.
        source: the sockaddr to bind the socket to; None leaves address and port to the kernel.
        allow_same_port: accept a source port that is the destination's, and compare the endpoints after the connect.
        timeout: the socket's timeout in seconds; if not given, the default one (:func:`socket.setdefaulttimeout`).

    Raises:
        TypeError, ValueError, OverflowError: an argument that the socket module refuses.
        OSError: the socket cannot be made, or the source address cannot be bound.
        SourcePortError: the source would make it a self-connect.
    """

    __slots__ = ("_destination", "_other_sub_range", "plan", "sock")

    def __init__(
        self,
        family: int,
        kind: int,
        proto: int,
        destination: Any,
        source: Any = None,
        *,
        allow_same_port: bool = False,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> None:
        self._destination = destination
        self._other_sub_range: int | None = None
        sock = self.sock = socket.socket(family, kind, proto)
        try:
            if timeout is not DEFAULT_TIMEOUT:
                sock.settimeout(timeout)
            if source is not None:
                self.plan = self._bind_source(source, allow_same_port)
                return
            chosen = self.plan = plan_for(sock, destination[1]) if family in _INTERNET else _UNGUARDED
            if chosen.means is _STEER:
                self._steer(chosen)
        except BaseException:
            sock.close()
            raise

    def _steer(self, chosen: Plan) -> None:
        # The same as Plan.order(), with prepared values: every connect runs this.
        sub_range, *others = chosen.options if random() < chosen.lower_share else chosen.options[::-1]
        self.sock.setsockopt(_IP, IP_LOCAL_PORT_RANGE, sub_range)
        if others:
            self._other_sub_range = others[0]

    def _bind_source(self, source: Any, allow_same_port: bool) -> Plan:
        if not isinstance(source, tuple) or len(source) < 2 or source[1]:
            self.sock.bind(source)
            return self._plan_for_bound(allow_same_port)
        chosen = plan_for(self.sock, self._destination[1])
        if chosen.means is _STEER:
            self._steer(chosen)
        self._bind_address(source)
        return chosen

    def _plan_for_bound(self, allow_same_port: bool) -> Plan:
        # bind(2)'s caller resolves names, so compare the address that the kernel has, not the text.
        bound, port = self.sock.getsockname(), self._destination[1]
        if not allow_same_port and bound[1] == port:
            source, destination = Endpoint.from_sockaddr(bound), Endpoint.from_sockaddr(self._destination)
            if would_be_self(source, destination):
                raise SourcePortError(source, destination)
        return plan(port, bound[1], _UNKNOWN)

    def _bind_address(self, source: Any) -> None:
        """Bind to an address and leave the port to connect(2), which can share a port between destinations.

        A port that bind(2) chooses belongs to this socket alone, so a client with a source address of its own would
        have far fewer source ports than others (IP_BIND_ADDRESS_NO_PORT, Linux 4.2, ip(7)).
        """
        leave_port_to_connect(self.sock)
        while True:
            try:
                return self.sock.bind(source)
            except OSError as error:
                # Without that option, EADDRINUSE for port 0 says: the sub-range has no port left (inet_csk_get_port).
                if error.errno != errno.EADDRINUSE or not self._use_other_sub_range():
                    raise

    def _use_other_sub_range(self) -> bool:
        if self._other_sub_range is None:
            return False
        self.sock.setsockopt(_IP, IP_LOCAL_PORT_RANGE, self._other_sub_range)
        self._other_sub_range = None
        return True

    def failed(self, error: OSError) -> None:
        """Return if the connect may be repeated on the same socket, else close it and raise ``error``.

        EADDRNOTAVAIL from connect(2) says that every port of the sub-range is in use for this destination (ip(7)).

        Raises:
            OSError: ``error``.
            SelfConnectError: the system refused to connect the socket to itself, as macOS does with EINVAL.
        """
        if error.errno == errno.EADDRNOTAVAIL and self._use_other_sub_range():
            return
        is_to_itself = not _LINUX and error.errno == errno.EINVAL and self._has_destination_port()
        self.drop()
        if is_to_itself:
            end = Endpoint.from_sockaddr(self._destination)
            raise SelfConnectError(end, end) from error
        raise error

    def finish(self) -> socket.socket:
        """Return the connected socket; compare its port with the destination's, whatever the plan relied on.

        Raises:
            SelfConnectError: the socket was connected to itself; it has been reset.
            OSError: EADDRNOTAVAIL, the same, and the ephemeral range has no other port.
        """
        sock = self.sock
        if self.plan is not _UNGUARDED and sock.getsockname()[1] == self._destination[1]:
            try:
                abort_if_self_connected(sock)
            except SelfConnectError:
                if self.plan.has_other_port:
                    raise
                raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL)) from None
            except BaseException:
                abort(sock)  # it may be a self-connect
                raise
        return sock

    def drop(self) -> None:
        """Close the socket; with RST where it may be a self-connect."""
        if self._has_destination_port():
            abort(self.sock)
        else:
            self.sock.close()

    def _has_destination_port(self) -> bool:
        if self.plan is _UNGUARDED:
            return False
        try:
            return bool(self.sock.getsockname()[1] == self._destination[1])
        except OSError:  # closed, or on Windows not bound
            return False


_UNGUARDED = Plan(Means.NOTHING)
"""For sockets that are neither AF_INET nor AF_INET6: they have no ports."""


def self_connected_endpoints(sock: Any) -> tuple[Endpoint, Endpoint] | None:
    """Return the local and remote endpoint if ``sock`` is a TCP socket connected to itself, else None.

    Args:
        sock: a socket, or what has its ``family``, ``type``, ``getsockname`` and ``getpeername``.

    Raises:
        OSError: EBADF if it is closed.
    """
    if sock.type != socket.SOCK_STREAM or sock.family not in _INTERNET:
        return None
    try:
        remote = Endpoint.from_sockaddr(sock.getpeername())
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.EINVAL):  # EINVAL: macOS, after a reset
            return None
        raise
    local = Endpoint.from_sockaddr(sock.getsockname())
    return (local, remote) if is_self(local, remote) else None


def abort_if_self_connected(sock: socket.socket) -> None:
    """Reset ``sock`` if it is connected to itself.

    Raises:
        SelfConnectError: it was.
    """
    if (ends := self_connected_endpoints(sock)) is not None:
        abort(sock)
        raise SelfConnectError(*ends)


def connected_at_once(sock: socket.socket, destination: Any) -> bool:
    """Start a non-blocking connect; True if it is done already, which saves a third of the time on loopback.

    The handshake with a listener on this host takes place within connect(2), but while the socket is locked: the
    answer waits in its backlog until the call returns, so the call says EINPROGRESS. A second connect(2) says
    how it went, or EALREADY if the destination is further away (connect(2); Linux net/ipv4/af_inet.c).
    """
    return connect_call(sock, destination) or connect_call(sock, destination)


def connect_call(sock: socket.socket, destination: Any) -> bool:
    """Call connect(2) of a non-blocking socket once; True if it is connected then. Does nothing except on Linux."""
    if not _LINUX:
        return False
    try:
        sock.connect(destination)
    except BlockingIOError:
        return False
    return True


def named(error: OSError, destination: Any) -> OSError:
    """Return a connect's error with the address in its text: Python's has none."""
    number = error.errno or 0
    return OSError(number, f"{os.strerror(number)}: {Endpoint.from_sockaddr(destination)}")


def connect_unix(path: str) -> socket.socket:
    """Return a non-blocking socket that is connected to the Unix socket at ``path``; there is nothing to guard.

    Raises:
        OSError: nobody listens there; BlockingIOError if the listener's backlog is full. A non-blocking connect to a
            full backlog fails with EAGAIN and does not continue by itself (unix(7)), although poll(2) then says that
            the socket is writable and SO_ERROR that nothing is wrong.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise type(error)(error.errno, f"{error.strerror}: {path.replace(chr(0), '@', 1)}") from None
    return sock
