"""The steering of a program's socket right before it is connected.

The socket is not ours: it may be blocking or not, bound or not, used before, and it cannot be exchanged for
another one. Nothing compares its endpoints afterwards, so only a means that makes a self-connect impossible will do:

==========================================  ====================================================================
the socket                                  what is done
==========================================  ====================================================================
goes to a port outside the ephemeral range  nothing
is not bound, or to another port            IP_LOCAL_PORT_RANGE on a sub-range without P, within the program's own
was bound to P, chosen by the kernel        unbound, and bound again on such a sub-range
was bound to P by the program               nothing: the program asked for it
any of them, without IP_LOCAL_PORT_RANGE    see :mod:`tailbite.guards.python.without_range`
==========================================  ====================================================================

``getsockname`` cannot tell whether a socket is bound: after a refused connect it returns the port that was tried,
while the kernel chooses a new one for the next connect. So a socket that looks bound is steered like any other; on
one that is bound, the option does nothing.

Each system call here is a fortieth of a connect on loopback, and a guard may cost a tenth. So there is a fast path,
which only sets the option: what was found out about a port counts for another
:data:`~tailbite.connect.facts.FRESH_FOR` seconds, for sockets of the same network namespace that have no range of
their own, until the program binds a socket before it connects it.
"""

from __future__ import annotations

import _socket
import errno
import operator
import os
import socket
from random import random
from time import monotonic
from typing import Any, TypeAlias

from tailbite.connect import facts
from tailbite.core.plan import HostFacts, Means, Plan, plan
from tailbite.core.ports import PortRange
from tailbite.core.sub_ranges import effective_range
from tailbite.guards.python import without_range
from tailbite.kernel.sockopt import IP_LOCAL_PORT_RANGE, SO_NETNS_COOKIE, pack_port_range
from tailbite.kernel.unbind import unbind_chosen_port

__all__ = ["note_bind", "prepare"]

# The C level of the socket class: programs override its methods, and its own properties make enums (0.5 us each).
_Socket: Any = _socket.socket
_family_of = _Socket.family.__get__
_kind_of = _Socket.type.__get__
_getsockopt = _Socket.getsockopt
_setsockopt = _Socket.setsockopt
_getsockname = _Socket.getsockname

_INET, _INET6 = int(socket.AF_INET), int(socket.AF_INET6)
_STREAM = int(socket.SOCK_STREAM)
_IP, _SOCKET = int(socket.IPPROTO_IP), int(socket.SOL_SOCKET)
_STEER = Means.STEER
_IN_USE = (errno.EADDRNOTAVAIL, errno.EADDRINUSE)
_NO_OPTION = (errno.EOPNOTSUPP, errno.ENOPROTOOPT)
_NOT_DONE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_MOST_KNOWN = 4096


class _Bare:
    """The C level of a program's socket, for functions that call its methods: its class may override them."""

    __slots__ = ("_sock",)

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def getsockopt(self, *arguments: Any) -> Any:
        return _getsockopt(self._sock, *arguments)

    def fileno(self) -> Any:
        return _Socket.fileno(self._sock)


_Done: TypeAlias = tuple[Means, PortRange | None]
_Side: TypeAlias = tuple[_Done, int]
_Known: TypeAlias = tuple[float, bytes, float, _Side | None, _Side | None]

_known_ports: dict[int, _Known] = {}
"""For each destination port: the time until which the entry counts, the cookie of its network namespace, the
probability of the lower sub-range, and the lower and the upper sub-range, each with its option value. The sub-ranges
are None where there is nothing to do."""

_is_plain = True
_named_ports: set[int] = set()


def _remember(sock: Any, port: int, chosen: Plan) -> None:
    try:
        namespace = _getsockopt(sock, _SOCKET, SO_NETNS_COOKIE, 8)
    except OSError:
        return  # before Linux 5.14
    if len(_known_ports) >= _MOST_KNOWN:
        _known_ports.clear()
    until = monotonic() + facts.FRESH_FOR
    if chosen.means is _STEER:
        lower, upper = (
            ((_STEER, sub_range), _option(sub_range)) for sub_range in (chosen.sub_ranges[0], chosen.sub_ranges[-1])
        )
        _known_ports[port] = until, namespace, chosen.lower_share, lower, upper
    else:
        _known_ports[port] = until, namespace, 0, None, None


def _leave_fast_path() -> None:
    global _is_plain
    _is_plain = False
    _known_ports.clear()


def note_bind(sock: Any, address: Any) -> None:
    """Remember the port that a program binds a TCP socket to, as it may connect that socket afterwards.

    Args:
        sock: as the audit event ``socket.bind`` has it.
        address: the address it is about to be bound to.
    """
    if _kind_of(sock) != _STREAM or not isinstance(address, tuple) or (port := _port_of(address)) is None:
        return
    if port == 0:
        _leave_fast_path()
    elif port not in _named_ports:
        _named_ports.add(port)
        _known_ports.clear()


def _port_of(address: Any) -> int | None:
    """Return the port of an address as Python's ``connect`` reads it; None for a path or a CAN interface."""
    try:
        return operator.index(address[1])
    except (IndexError, KeyError, TypeError):
        return None


def prepare(sock: Any, address: Any) -> _Done | None:
    """Make it impossible that connecting ``sock`` to ``address`` makes it a connection to itself.

    Args:
        sock: an instance of ``_socket.socket``, as the audit event ``socket.connect`` has it.
        address: the address it is about to be connected to.

    Returns:
        The means, and with ``STEER`` the range that the source port comes from; None if there was nothing to do.

    Raises:
        OSError: EADDRNOTAVAIL, as connect(2) says when no source port is left; EMFILE, ENFILE, ENOMEM or ENOBUFS if
            the system lacks what is needed to keep the port away.
    """
    try:
        known = _known_ports.get(address[1])
    except (IndexError, TypeError):
        known = None
    if known is not None:
        until, namespace, share, lower, upper = known
        try:
            if (
                monotonic() < until
                and _kind_of(sock) == _STREAM
                and _getsockopt(sock, _SOCKET, SO_NETNS_COOKIE, 8) == namespace
            ):
                sub_range = lower if random() < share else upper
                if sub_range is None:
                    return None
                if _getsockopt(sock, _IP, IP_LOCAL_PORT_RANGE) == 0:
                    done, value = sub_range
                    _setsockopt(sock, _IP, IP_LOCAL_PORT_RANGE, value)
                    return done
        except OSError:
            pass  # closed, or not TCP: that is found out below
    return _prepare_slowly(sock, address)


def _prepare_slowly(sock: Any, address: Any) -> _Done | None:
    family = _family_of(sock)
    if (family != _INET and family != _INET6) or _kind_of(sock) != _STREAM:
        return None
    if (port := _port_of(address)) is None:
        return None
    bare: Any = _Bare(sock)
    chosen = facts.plan_for(bare, port)
    try:
        done = None
        if chosen.means is Means.RESET or (chosen.means is _STEER and not _can_have_range(sock)):
            means = without_range.protect(sock, address, port, has_other_port=chosen.has_other_port)
            return None if means is None else (means, None)
        if chosen.means is _STEER:
            done = _steer(sock, port, chosen, bare)
    except OSError as error:
        if error.errno in _IN_USE:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL)) from None
        if error.errno in _NOT_DONE:
            raise
        return None  # closed, or connected already, or a protocol without ports: connect(2) says what is wrong
    if done is None or (_is_plain and port not in _named_ports):
        _remember(sock, port, chosen)
    return done


def _can_have_range(sock: Any) -> bool:
    try:
        _getsockopt(sock, _IP, IP_LOCAL_PORT_RANGE)
    except OSError as error:
        return error.errno not in _NO_OPTION  # MPTCP before Linux 6.8, on kernels that have the option for TCP
    return True


def _steer(sock: Any, port: int, chosen: Plan, bare: Any) -> _Done:
    own = _getsockopt(sock, _IP, IP_LOCAL_PORT_RANGE)
    if (
        own
        and own not in map(_option, chosen.sub_ranges)
        and (ephemeral := facts.host_facts(bare).ephemeral) is not None
    ):
        effective = effective_range(ephemeral, own)
        chosen = plan(port, 0, HostFacts(effective, True))
        if chosen.means is Means.RESET:
            if own == _option(PortRange(port, port)):
                return Means.CHECK, None  # the program asked for P
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))  # of its range, only P is left
        if chosen.means is Means.NOTHING:
            chosen = Plan(_STEER, (effective,))
    # A socket that has a sub-range already keeps it: tailbite's own functions try one after the other.
    sub_ranges = sorted(chosen.order(random()), key=lambda sub_range: _option(sub_range) != own)
    _set_range(sock, sub_ranges[0])
    if _getsockname(sock)[1] != port:
        return _STEER, sub_ranges[0]
    unbind_chosen_port(sock)
    for sub_range in sub_ranges:
        _set_range(sock, sub_range)
        try:
            _bind_again(sock)
            return _STEER, sub_range
        except OSError as error:
            if error.errno == errno.EINVAL:
                return Means.CHECK, None
            if error.errno not in _IN_USE or sub_range is sub_ranges[-1]:
                raise
    raise AssertionError("a plan to steer has a sub-range")


def _option(ports: PortRange) -> int:
    return pack_port_range(ports.low, ports.high)


def _set_range(sock: Any, ports: PortRange) -> None:
    _setsockopt(sock, _IP, IP_LOCAL_PORT_RANGE, _option(ports))


def _bind_again(sock: Any) -> None:
    host, _, *rest = _getsockname(sock)
    _Socket.bind(sock, (host, 0, *rest))
