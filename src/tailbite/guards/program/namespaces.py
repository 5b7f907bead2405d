"""Which source ports a guarded program's sockets may have: its network namespaces, their ranges, its own ranges."""

from __future__ import annotations

import contextlib
import os
from time import monotonic
from typing import Any, Final, NamedTuple

from tailbite.connect import facts
from tailbite.core.plan import HostFacts, Means, Plan, plan
from tailbite.core.ports import PortRange
from tailbite.core.sides import effective_range
from tailbite.kernel.namespace import CLONE_NEWNET, CLONE_NEWUSER, setns
from tailbite.kernel.sockopt import netns_cookie, pack_port_range
from tailbite.kernel.sysctl import read_ephemeral_range

__all__ = ["Namespaces", "Ranges", "Steering", "cookie"]

FOREIGN_FRESH_FOR: Final = 1.0
"""Seconds for which the port range of a namespace that the program made is believed, as reading it takes a process of
its own. In the supervisor's own namespace it is :data:`tailbite.connect.facts.FRESH_FOR`."""

_MOST = 4096


class Steering(NamedTuple):
    """A plan, and for ``Means.STEER`` its two sides as values of IP_LOCAL_PORT_RANGE."""

    means: Means
    lower_share: float = 1.0
    lower: int = 0
    upper: int = 0


def _steering(chosen: Plan) -> Steering:
    values = [pack_port_range(side.low, side.high) for side in chosen.sides]
    return Steering(chosen.means, chosen.lower_share, values[0], values[-1]) if values else Steering(chosen.means)


class Ranges:
    """A network namespace's ephemeral range, and the steering that follows from it for a destination port."""

    def __init__(self, ephemeral: PortRange | None, until: float) -> None:
        self.ephemeral = ephemeral
        self.until = until
        # A socket that is connected again has the range that it was given here, which is not its program's.
        self._given: dict[int, int] = {}

    def steer(self, port: int, own: int) -> Steering:
        """Say what to do about a connect to ``port`` of a socket whose IP_LOCAL_PORT_RANGE is ``own``, 0 if unset."""
        if own == 0 or (own := self._given.get(own, own)) == 0 or self.ephemeral is None:
            return self._remember(_steering(plan(port, 0, HostFacts(self.ephemeral, True))), 0)
        ports = effective_range(self.ephemeral, own)
        return self._remember(_steering(plan(port, 0, HostFacts(ports, True))), own)

    def _remember(self, steering: Steering, own: int) -> Steering:
        if len(self._given) >= _MOST:
            self._given.clear()
        if steering.means is Means.STEER:
            self._given[steering.lower] = self._given[steering.upper] = own
        return steering


class Namespaces:
    """The network namespaces of a program: nearly always the supervisor's own, and then nearly nothing to do."""

    def __init__(self, home: bytes) -> None:
        self._home = home
        self._own = Ranges(None, 0.0)
        self._foreign: dict[bytes, Ranges] = {}

    def own(self, now: float) -> Ranges:
        """Return what is known of the supervisor's own namespace."""
        own = self._own
        if own.until < now:
            try:
                ephemeral: PortRange | None = read_ephemeral_range()
            except (OSError, ValueError):
                ephemeral = None
            if ephemeral != own.ephemeral:
                own = self._own = Ranges(ephemeral, now)
            own.until = now + facts.FRESH_FOR
        return own

    def is_home(self, sock: Any) -> bool:
        """Tell whether a socket is in the supervisor's own namespace."""
        return cookie(sock) == self._home

    def foreign(self, sock: Any, tid: int) -> Ranges | None:
        """Return what is known of the namespace of another thread's socket; None if it cannot be looked into."""
        name, now = cookie(sock), monotonic()
        known = self._foreign.get(name)
        if known is None or known.until < now:
            if len(self._foreign) >= _MOST:
                self._foreign.clear()
            known = self._foreign[name] = Ranges(_read_range_of(tid), now + FOREIGN_FRESH_FOR)
        return None if known.ephemeral is None else known


def cookie(sock: Any) -> bytes:
    """Return what names a socket's network namespace."""
    try:
        return netns_cookie(sock)
    except OSError:
        return b""  # before Linux 5.14 all namespaces look like ours


def _read_range_of(tid: int) -> PortRange | None:
    """Read the ephemeral range of another thread's namespace, from a child process that goes there.

    A namespace that an unprivileged program made belongs to a user namespace it made as well; whoever has the same
    user outside may enter that one first, and is then privileged enough for the other (user_namespaces(7)).
    None if that is not allowed here.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            network = os.open(f"/proc/{tid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # EINVAL: the same user namespace as ours
                setns(os.open(f"/proc/{tid}/ns/user", os.O_RDONLY | os.O_CLOEXEC), CLONE_NEWUSER)
            setns(network, CLONE_NEWNET)
            os.write(write, str(read_ephemeral_range()).encode())
        finally:
            os._exit(0)
    os.close(write)
    try:
        text = os.read(read, 64)
    finally:
        os.close(read)
        os.waitpid(child, 0)
    try:
        return PortRange.parse(text.decode("ascii"))
    except ValueError:
        return None
