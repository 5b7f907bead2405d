"""Recovery: for how long a server that wants the port is kept down, and when the client is connected to it.

The range is widened first: in a range of two ports one TIME-WAIT would leave the client no port to come back with.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING

from tailbite.audit import trap
from tailbite.audit.records import Recovery
from tailbite.kernel.sock_diag import TcpState
from tailbite.kernel.sockopt import abort

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.audit.jail import Jail
    from tailbite.audit.records import Limits, Phase
    from tailbite.audit.running import RunningClient, Workspace
    from tailbite.kernel.sock_diag import TcpSocket

__all__ = ["measure_recovery"]

_BETWEEN_SERVERS = 0.25
"""Seconds between two starts of a real server that could not start: no more than a supervisor waits."""

_PLAIN_LAG = 2.0
"""Seconds that a bind without SO_REUSEADDR may succeed later than one with it; after that the server does not wait
for it."""

_MOST_ACCEPTED = 256

_WILDCARDS = frozenset({"0.0.0.0", "::"})


def measure_recovery(running: RunningClient, where: Phase, limits: Limits, workspace: Workspace) -> Recovery:
    """Let the client settle, start a server on P, and watch both, until both work or patience is over.

    Args:
        running: the client.
        where: the trap it runs in.
        limits: ``settle``, ``patience`` and ``server`` count.
        workspace: where the server runs.
    """
    patience = limits.patience
    _settle(running, limits)
    trap.widen()
    began = running.recorder.now

    def clock() -> float:
        return running.recorder.now - began

    with contextlib.closing(_RealServer(workspace, clock) if limits.server else _Listeners(where, clock)) as server:
        served_after = recovered_after = None
        while clock() < patience:
            server.step()
            running.tick()
            if served_after is None and server.is_up(running.sockets, where):
                served_after = clock()
            if served_after is not None:
                # Polling would miss a check that connects and resets within a millisecond, as HAProxy's does.
                if (answered := running.recorder.self_connects.answered) is not None:
                    recovered_after = max(0.0, answered - began)
                    # The capture has the exact time; the listener was seen by the poll after it.
                    served_after = min(served_after, recovered_after)
                elif any(_is_service(found) for found in running.sockets):
                    recovered_after = clock()
                if recovered_after is not None or running.is_gone:
                    break
        return Recovery(
            began=began,
            plain_after=server.plain_after,
            reuse_after=server.reuse_after,
            served_after=served_after,
            recovered_after=recovered_after,
            gave_up_after=clock(),
            real_server=limits.server is not None,
            client_gone=running.is_gone,
        )


def _settle(running: RunningClient, limits: Limits) -> None:
    """Wait until the client had its time with itself; one that does not dial, or is gone, is not waited for."""
    while not running.is_gone:
        running.tick()
        now, seen = running.recorder.now, running.recorder.self_connects
        if seen.established:
            if now - seen.established[0].start >= limits.settle:
                return
        elif now >= (seen.dialled[0] + limits.settle if seen.dialled else limits.dial):
            return


def _is_service(found: TcpSocket) -> bool:
    """Tell whether this is the server's end of a connection; the client's end has another local port."""
    return found.state is TcpState.ESTABLISHED and not found.is_self_connected


class _Listeners:
    """A plain server: tries to bind every tick, and listens as soon as it can.

    Most servers set SO_REUSEADDR, so this one does when it starts; whether it could have started without is tried
    first, each time. A socket that is bound and closed leaves nothing.
    """

    def __init__(self, where: Phase, clock: Callable[[], float]) -> None:
        self._where = where
        self._clock = clock
        self._listeners: list[socket.socket] = []
        self._accepted: list[socket.socket] = []
        self.plain_after: float | None = None
        self.reuse_after: float | None = None

    def step(self) -> None:
        if self._listeners:
            for listener in self._listeners:
                with contextlib.suppress(OSError):
                    self._accepted.append(listener.accept()[0])
            # A client that dials again and again must not find the queue full, nor use up the descriptors here.
            while len(self._accepted) > _MOST_ACCEPTED:
                abort(self._accepted.pop(0))
            return
        hosts, port = self._where.addresses, self._where.port
        if self.plain_after is None and all(trap.server_can_bind(host, port, reuse=False) for host in hosts):
            self.plain_after = self._clock()
        if self.reuse_after is None and all(trap.server_can_bind(host, port, reuse=True) for host in hosts):
            self.reuse_after = self._clock()
        if self.reuse_after is None:
            return
        if self.plain_after is not None or self._clock() > self.reuse_after + _PLAIN_LAG:
            self._listen()

    def _listen(self) -> None:
        for host in self._where.addresses:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                listener = socket.create_server((host, self._where.port), family=family, backlog=1024)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                self.close()  # the client came in between: next tick
                return
            listener.setblocking(False)
            self._listeners.append(listener)

    def is_up(self, sockets: list[TcpSocket], where: Phase) -> bool:
        return bool(self._listeners)

    def close(self) -> None:
        for sock in (*self._listeners, *self._accepted):
            sock.close()
        self._listeners.clear()
        self._accepted.clear()


class _RealServer:
    """The server of ``--server``, started again and again until it serves.

    Beside it nothing else tries to bind: a try that works would make the server's own fail.
    """

    plain_after = None
    reuse_after = None

    def __init__(self, workspace: Workspace, clock: Callable[[], float]) -> None:
        self._workspace = workspace
        self._clock = clock
        self._jail: Jail | None = None
        self._due = 0.0

    def step(self) -> None:
        if self._jail is not None:
            self._jail.pump()
            if self._jail.is_empty:
                self.close()
                self._due = self._clock() + _BETWEEN_SERVERS
        elif self._clock() >= self._due:
            self._jail = self._workspace.jail(self._workspace.client.command)

    def is_up(self, sockets: list[TcpSocket], where: Phase) -> bool:
        # A server on 0.0.0.0 and :: that got the one and not the other is half up: look at the address that counts.
        listening = {found.endpoints.local.host for found in sockets if found.state is TcpState.LISTEN}
        return all(host in listening or listening & _WILDCARDS for host in where.addresses[:1])

    def close(self) -> None:
        if self._jail is not None:
            self._jail.end()
            self._jail = None
