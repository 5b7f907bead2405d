"""A storm: clients that reconnect to a server which goes away and comes back, and what that costs the server.

Each round has an outage and a start. In the outage the ephemeral range is a few ports wide and everybody dials as
fast as may be, so that as many draws meet the dead port as do in days on the default range. Then the range is the
default one again, clients dial at their usual pace, and the server tries to start until it can.

That part is not sped up, for TIME-WAIT cannot be: its 60 s are a constant of the kernel (TCP_TIMEWAIT_LEN). Of the
sysctls, ``tcp_tw_reuse_delay`` only says when a new connection of the *same* endpoints may take its place,
``tcp_fin_timeout`` is about FIN-WAIT-2, and ``tcp_max_tw_buckets`` can only do away with TIME-WAIT altogether. So a
short run gives up after its patience, and adds what the kernel's own timer says is left.

The server resets its connections when it goes away, as a killed one with unread data does. So nothing of *its own* is
in its way, and what keeps it from starting is the clients'.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.core.ports import PortRange
from tailbite.kernel.sock_diag import SockDiag, TcpSocket, TcpState
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import read_ephemeral_range, write_ephemeral_range
from tailbite.lab.strategies import HOST, Strategy, is_to_itself

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["NoControl", "Round", "StormSettings", "storm"]

_LOW = 40000
_WIDTH = 32
_DEAD = 40016
_HURRY = 0.002
_LONGEST_OUTAGE = 20.0
_LONGEST_DIAL = 1.0
_START_EVERY = 0.02
_GLANCE = 0.05


class NoControl(RuntimeError):  # noqa: N818 - it says what was missing
    """The plain client beside the strategy did not connect to itself, so its absence would prove nothing."""


@dataclass(frozen=True, slots=True)
class StormSettings:
    """How hard it blows.

    Attributes:
        clients: clients that dial at the same time.
        restarts: rounds.
        attempts: dials of all clients together in each outage.
        every: seconds between two dials of a client while the server starts.
        patience: seconds after which a server that cannot start is helped: the clients in its way are killed.
        plain_server: the server does not set SO_REUSEADDR.
    """

    clients: int = 20
    restarts: int = 5
    attempts: int = 2000
    every: float = 0.25
    patience: float = 3.0
    plain_server: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """What one restart met.

    Attributes:
        strategy: the clients' strategy.
        number: from 1.
        attempts: dials in the outage.
        self_connects: self-connects that came about in this round, dropped ones included.
        failed_starts: how often the server tried in vain to bind or listen.
        down: seconds from its first try to its start; what the kernel's timer said was left is added if ``helped``.
        helped: True if patience ended before it could start.
        held_by: the state of the self-connected socket in its way, or None.
        recovered: seconds from the first try until all clients were served; None if it had to be helped.
    """

    strategy: str
    number: int
    attempts: int
    self_connects: int
    failed_starts: int
    down: float
    helped: bool
    held_by: str | None
    recovered: float | None


def storm(strategy: Strategy, settings: StormSettings, progress: Callable[[Round], None]) -> list[Round]:
    """Let it blow in the calling thread's network namespace, which must be a private one, and return the rounds.

    Raises:
        NoControl: see there.
        OSError: the namespace's sysctls cannot be set.
    """
    port = _DEAD + strategy.binds_first
    usual = read_ephemeral_range()
    narrow = PortRange(_LOW, _LOW + _WIDTH - 1)
    write_ephemeral_range(narrow)
    _control(port, binds_first=strategy.binds_first)
    rounds = []
    with strategy.prepare(port), _Clients(strategy, port, settings) as clients:
        for number in range(1, settings.restarts + 1):
            write_ephemeral_range(narrow)
            clients.rage(settings.attempts)
            write_ephemeral_range(usual)
            clients.calm_down()
            rounds.append(_start(number, strategy, settings, port, clients))
            progress(rounds[-1])
    return rounds


def _control(port: int, *, binds_first: bool) -> None:
    """Prove that a plain client connects to itself here; leaves nothing behind."""
    for _ in range(40 * _WIDTH):
        sock = socket.socket()
        try:
            if binds_first:
                sock.bind((HOST, 0))
            if sock.connect_ex((HOST, port)) == 0 and is_to_itself(sock):
                return
        finally:
            abort(sock)
    raise NoControl(f"a plain client did not connect to itself on port {port}, so there is nothing to compare with")


def _start(number: int, strategy: Strategy, settings: StormSettings, port: int, clients: _Clients) -> Round:
    attempts, began = clients.attempts, time.monotonic()
    failed, helped, left = 0, False, 0.0
    held_by: TcpState | None = None
    while (listener := _listen(port, plain=settings.plain_server)) is None:
        failed += 1
        found = _in_the_way(port)
        held_by = found.state if found is not None else held_by
        if time.monotonic() - began > settings.patience:
            helped = True
            left = (found.expires_ms / 1000) if found is not None and found.state is TcpState.TIME_WAIT else 0.0
            clients.evict()
            _clear(port)
        time.sleep(_START_EVERY)
    down = time.monotonic() - began
    with _Server(listener, settings.clients) as server:
        all_served = server.wait_for_all(began + max(settings.patience, 20 * settings.every) + down)
        recovered = None if helped or all_served is None else all_served - began
    return Round(
        strategy=strategy.name,
        number=number,
        attempts=attempts,
        self_connects=clients.take_self_connects(),
        failed_starts=failed,
        down=round(down + left, 3),
        helped=helped,
        held_by=held_by.label if held_by is not None else None,
        recovered=None if recovered is None else round(recovered, 3),
    )


def _listen(port: int, *, plain: bool) -> socket.socket | None:
    """Start as servers do; None if the port is taken."""
    sock = socket.socket()
    try:
        if not plain:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HOST, port))
        sock.listen(256)
    except OSError:
        sock.close()
        return None
    return sock


def _self_connected(port: int) -> Iterator[TcpSocket]:
    with SockDiag() as diag:
        for found in diag.dump():
            if found.endpoints.local.port == port and found.is_self_connected:
                yield found


def _in_the_way(port: int) -> TcpSocket | None:
    return next(_self_connected(port), None)


def _clear(port: int) -> None:
    with SockDiag() as diag:
        for found in list(_self_connected(port)):
            with contextlib.suppress(OSError):
                diag.destroy(found)


class _Server:
    """Accepts until it is closed, then resets everybody."""

    def __init__(self, listener: socket.socket, clients: int) -> None:
        self._listener = listener
        self._clients = clients
        self._accepted: list[socket.socket] = []
        self._served = threading.Event()
        self._when = 0.0
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def _accept(self) -> None:
        while True:
            try:
                self._accepted.append(self._listener.accept()[0])
            except OSError:
                return
            if len(self._accepted) == self._clients:
                self._when = time.monotonic()
                self._served.set()

    def wait_for_all(self, deadline: float) -> float | None:
        """Return when all clients were served, or None if that did not happen in time."""
        return self._when if self._served.wait(max(0.0, deadline - time.monotonic())) else None

    def __enter__(self) -> _Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join()
        self._listener.close()
        for sock in self._accepted:
            abort(sock)


class _Clients:
    """Threads that dial by one strategy, hold what they get until it ends, and dial again."""

    def __init__(self, strategy: Strategy, port: int, settings: StormSettings) -> None:
        self._strategy, self._port, self._settings = strategy, port, settings
        self._lock = threading.Lock()
        self._raging = threading.Event()
        self._ending = threading.Event()
        self._enough = threading.Event()
        self._evictions = 0
        self._budget = 0
        self._self_connects = 0
        self._dialling = 0
        self.attempts = 0
        self._threads = [threading.Thread(target=self._be, daemon=True) for _ in range(settings.clients)]

    def __enter__(self) -> _Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._raging.set()
        for thread in self._threads:
            thread.join()

    def rage(self, attempts: int) -> None:
        """Dial as fast as may be until that many attempts were made, or everybody is connected to something."""
        with self._lock:
            self.attempts, self._budget = 0, attempts
        self._enough.clear()
        self._raging.set()
        self._enough.wait(_LONGEST_OUTAGE)
        self._raging.clear()

    def calm_down(self) -> None:
        """Dial at the usual pace from now on; returns when the hurried dials have ended.

        A client that resets a self-connect, or binds and looks, has the port for some microseconds. In a range of a
        few ports somebody always does just then; on the default range that is next to impossible.
        """
        self._raging.clear()
        deadline = time.monotonic() + _LONGEST_DIAL
        while self._dialling and time.monotonic() < deadline:
            time.sleep(0.001)

    def evict(self) -> None:
        """Kill the clients that are connected to themselves; new ones take their place."""
        self._evictions += 1
        time.sleep(2 * _GLANCE)

    def take_self_connects(self) -> int:
        """Return how many there were since the last call."""
        with self._lock:
            count, self._self_connects = self._self_connects, 0
        return count

    def _be(self) -> None:
        generator = random.Random()
        while not self._ending.is_set():
            sock = self._dial()
            if sock is not None:
                self._hold(sock)
            elif self._raging.is_set():
                time.sleep(_HURRY)
            else:
                self._raging.wait(self._settings.every * generator.uniform(0.5, 1.5))

    def _dial(self) -> socket.socket | None:
        sock = None
        with self._lock:
            self._dialling += 1
        try:
            sock = self._strategy.dial(self._port, self._notice)
        except OSError:
            pass
        if sock is not None and is_to_itself(sock):
            self._notice()
        with self._lock:
            self._dialling -= 1
            self.attempts += 1
            if self.attempts >= self._budget:
                self._enough.set()
                self._raging.clear()
        return sock

    def _notice(self) -> None:
        with self._lock:
            self._self_connects += 1

    def _hold(self, sock: socket.socket) -> None:
        """Wait for the end of the connection, as a client with nothing to say does."""
        evictions, is_self = self._evictions, is_to_itself(sock)
        sock.settimeout(_GLANCE)
        try:
            while not self._ending.is_set() and not (is_self and self._evictions != evictions):
                try:
                    if not sock.recv(1):
                        return
                except TimeoutError:
                    continue
        except OSError:
            pass  # reset by the server
        finally:
            abort(sock)
