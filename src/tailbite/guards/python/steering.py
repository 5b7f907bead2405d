"""What is done to somebody else's socket right before it is connected.

The socket is not ours: it may be blocking or not, bound or not, used before, and it cannot be exchanged for
another one. And nobody looks afterwards, so only what makes a self-connect impossible will do:

==========================================  ====================================================================
the socket                                  what is done
==========================================  ====================================================================
goes to a port outside the ephemeral range  nothing
is not bound, or to another port            IP_LOCAL_PORT_RANGE on a side without P, within the program's own
was bound to P by the kernel's draw         the port is given back, and the socket bound anew on such a side
was bound to P by the program               nothing: the program asked for it
any of them, without IP_LOCAL_PORT_RANGE    bound to port 0 while a second socket holds P
==========================================  ====================================================================

``getsockname`` cannot tell whether a socket is bound: after a refused connect it names the port that was tried,
while the kernel draws a new one for the next. So a socket that looks bound is steered like any other; on one
that is bound, the option does nothing.

Each system call here is a twentieth of a connect on loopback, and a guard may cost a tenth. So there is a short
cut, which only sets the option: what was found out about a port counts for the same thread for another
:data:`~tailbite.connect.facts.FRESH_FOR` seconds, until the program is seen to bind before it connects, or to
give a socket a range of its own.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
import socket
import sys
import threading
from random import random
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

from tailbite.connect import facts
from tailbite.core.plan import HostFacts, Means, Plan, plan
from tailbite.core.ports import PortRange
from tailbite.core.sides import effective_range
from tailbite.kernel.sockopt import IP_LOCAL_PORT_RANGE, pack_port_range
from tailbite.kernel.unbind import unbind_chosen_port

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["note_bind", "note_own_socket", "prepare"]

# The C level of the socket class: programs override its methods, and its own properties make enums (0.5 us each).
_Socket: Any = _socket.socket
_family_of = _Socket.family.__get__
_kind_of = _Socket.type.__get__
_getsockopt = _Socket.getsockopt
_setsockopt = _Socket.setsockopt
_getsockname = _Socket.getsockname

_INET, _INET6 = int(socket.AF_INET), int(socket.AF_INET6)
_STREAM = int(socket.SOCK_STREAM)
_IP = int(socket.IPPROTO_IP)
_STEER = Means.STEER
_IP_BIND_ADDRESS_NO_PORT = 24  # Linux 4.2, include/uapi/linux/in.h
_IN_USE = (errno.EADDRNOTAVAIL, errno.EADDRINUSE)
_TRIES = 8
_MOST_SHORT_CUTS = 4096

_Done: TypeAlias = tuple[Means, PortRange | None]
_Side: TypeAlias = tuple[_Done, int]
_ShortCut: TypeAlias = tuple[float, float, _Side | None, _Side | None]


class _ShortCuts(threading.local):
    """What was found out about a port, for each thread by itself: threads may be in different network namespaces.

    A short cut is: until when it counts, how likely the lower side is, and the lower and the upper side, each with
    its option value; the sides are None where there is nothing to do.
    """

    def __init__(self) -> None:
        self.ports: dict[int, _ShortCut] = {}

    def remember(self, port: int, chosen: Plan) -> None:
        if len(self.ports) >= _MOST_SHORT_CUTS:
            self.ports.clear()
        until = monotonic() + facts.FRESH_FOR
        if chosen.means is _STEER:
            lower, upper = (((_STEER, side), _option(side)) for side in (chosen.sides[0], chosen.sides[-1]))
            self.ports[port] = until, chosen.lower_share, lower, upper
        else:
            self.ports[port] = until, 0, None, None


_short_cuts = _ShortCuts()
_is_plain = True
_named_ports: set[int] = set()


def _forget_short_cuts() -> None:
    global _short_cuts
    _short_cuts = _ShortCuts()  # every thread's


def _take_no_more_short_cuts() -> None:
    global _is_plain
    if _is_plain:
        _is_plain = False
        _forget_short_cuts()


def note_own_socket() -> None:
    """Look with care at the next socket this thread connects: tailbite itself has given it a side already."""
    _short_cuts.ports.clear()


def note_bind(sock: Any, address: Any) -> None:
    """Remember what a program binds TCP sockets to, as it may connect them afterwards.

    Args:
        sock: as the audit event ``socket.bind`` has it.
        address: the address it is about to be bound to.
    """
    if not isinstance(address, tuple) or _kind_of(sock) != _STREAM:
        return
    if address[1] == 0:
        _take_no_more_short_cuts()
    elif address[1] not in _named_ports:
        _named_ports.add(address[1])
        _forget_short_cuts()


def prepare(sock: Any, address: Any) -> _Done | None:
    """Make it impossible that connecting ``sock`` to ``address`` makes it a connection to itself.

    Args:
        sock: an instance of ``_socket.socket``, as the audit event ``socket.connect`` has it.
        address: the address it is about to be connected to.

    Returns:
        What was done, and with ``STEER`` where the source port comes from; None if nothing had to be done.

    Raises:
        OSError: EADDRNOTAVAIL, as connect(2) says when no source port is left.
    """
    try:
        known = _short_cuts.ports.get(address[1])
    except (IndexError, TypeError):
        return None  # the path of a Unix socket, or the name of a CAN interface
    if known is not None:
        until, share, lower, upper = known
        if monotonic() < until:
            side = lower if random() < share else upper
            if side is None:
                return None
            if _kind_of(sock) == _STREAM:
                done, value = side
                try:
                    _setsockopt(sock, _IP, IP_LOCAL_PORT_RANGE, value)
                except OSError:
                    pass  # closed, or no TCP: that is found out below
                else:
                    return done
    return _prepare_with_care(sock, address[1])


def _prepare_with_care(sock: Any, port: int) -> _Done | None:
    family = _family_of(sock)
    if (family != _INET and family != _INET6) or _kind_of(sock) != _STREAM:
        return None
    chosen = facts.plan_for(sock, port)
    try:
        done = None
        if chosen.means is Means.BIND:
            return _bind(sock, port)
        if chosen.means is _STEER:
            done = _steer(sock, port, chosen)
    except OSError as error:
        if error.errno in _IN_USE:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL)) from None
        return None  # closed, or connected already, or a protocol without ports: connect(2) says what is wrong
    if done is None or (_is_plain and port not in _named_ports):
        _short_cuts.remember(port, chosen)
    return done


def _steer(sock: Any, port: int, chosen: Plan) -> _Done:
    own = _getsockopt(sock, _IP, IP_LOCAL_PORT_RANGE)
    if own and own not in map(_option, chosen.sides) and (ephemeral := facts.host_facts(sock).ephemeral) is not None:
        _take_no_more_short_cuts()
        effective = effective_range(ephemeral, own)
        chosen = plan(port, 0, HostFacts(effective, True))
        if chosen.means is Means.BIND:
            return Means.CHECK, None  # the program's range is P alone
        if chosen.means is Means.NOTHING:
            chosen = Plan(_STEER, (effective,))
    # A socket that has a side already keeps it: tailbite's own functions try one after the other.
    sides = sorted(chosen.order(random()), key=lambda side: _option(side) != own)
    _set_range(sock, sides[0])
    if _getsockname(sock)[1] != port:
        return _STEER, sides[0]
    unbind_chosen_port(sock)
    for side in sides:
        _set_range(sock, side)
        try:
            _bind_anew(sock)
            return _STEER, side
        except OSError as error:
            if error.errno == errno.EINVAL:
                return Means.CHECK, None
            if error.errno not in _IN_USE or side is sides[-1]:
                raise
    raise AssertionError("a plan to steer has a side")


def _option(ports: PortRange) -> int:
    return pack_port_range(ports.low, ports.high)


def _set_range(sock: Any, ports: PortRange) -> None:
    _setsockopt(sock, _IP, IP_LOCAL_PORT_RANGE, _option(ports))


def _bind(sock: Any, port: int) -> _Done:
    for _ in range(_TRIES):
        name = _getsockname(sock)
        if name[1] == port:
            unbind_chosen_port(sock)
        with _held(sock, port), _drawn_at_bind(sock):
            try:
                # A port that is neither 0 nor P: bound for good (EINVAL), or what is left of a refused connect,
                # and so is the address then.
                _bind_anew(sock, anywhere=name[1] not in (0, port))
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return (Means.CHECK if name[1] == port else Means.BIND), None
                raise
        if _getsockname(sock)[1] != port:
            return Means.BIND, None
        # Somebody else had held P, and let go of it just then.
    raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))


def _bind_anew(sock: Any, *, anywhere: bool = False) -> None:
    host, _, *rest = _getsockname(sock)
    if anywhere:
        host = "" if _family_of(sock) == _INET else "::"
    _Socket.bind(sock, (host, 0, *rest))


@contextlib.contextmanager
def _drawn_at_bind(sock: Any) -> Iterator[None]:
    """Have bind(2) draw a port, also for a program that asked for it to be drawn by connect(2) only (ip(7))."""
    if not sys.platform.startswith("linux") or not _getsockopt(sock, _IP, _IP_BIND_ADDRESS_NO_PORT):
        yield
        return
    _setsockopt(sock, _IP, _IP_BIND_ADDRESS_NO_PORT, 0)
    try:
        yield
    finally:
        _setsockopt(sock, _IP, _IP_BIND_ADDRESS_NO_PORT, 1)


@contextlib.contextmanager
def _held(sock: Any, port: int) -> Iterator[None]:
    """Keep ``port`` away from bind(2) with port 0: by a second socket, unless somebody else holds it anyway."""
    family = _family_of(sock)
    try:
        holder = _Socket(family, _STREAM)
    except OSError:  # no descriptor left: the look at what bind(2) gave has to do
        yield
        return
    try:
        with contextlib.suppress(OSError):
            if family == _INET6:
                option = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
                holder.setsockopt(*option, _getsockopt(sock, *option))
            holder.bind(("" if family == _INET else "::", port))
        yield
    finally:
        holder.close()
