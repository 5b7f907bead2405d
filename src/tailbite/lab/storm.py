"""A storm: many clients that reconnect to a server which stops and starts again, and the delay of its start.

Each round consists of an outage and a start. During the outage the ephemeral range is a few ports wide and all
clients connect as fast as possible, so that the kernel chooses the dead port as often as it does in days on the
default range. Then the default range is restored, the clients connect at their usual pace, and the server tries to
start until it can.

This second part cannot be accelerated: the 60 s of TIME-WAIT are a constant of the kernel (TCP_TIMEWAIT_LEN). Of the
sysctls, ``tcp_tw_reuse_delay`` only decides when a new connection between the *same* endpoints may replace it,
``tcp_fin_timeout`` is about FIN-WAIT-2, and ``tcp_max_tw_buckets`` can only abolish TIME-WAIT altogether. So a short
run stops waiting after its patience, and adds the rest of the kernel's own timer.

The server resets its connections when it stops, as a killed server with unread data does. So no socket of the server
itself delays its start; only sockets of the clients do.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.core.ports import PortRange
from tailbite.kernel.end_socket import end_self_connect
from tailbite.kernel.sock_diag import SockDiag, TcpSocket, TcpState
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import read_ephemeral_range, write_ephemeral_range
from tailbite.lab.strategies import STRATEGY_HOST, Strategy, is_to_itself
from tailbite.testkit.plain_client import connects_to_itself

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["NoControl", "StormRound", "StormSettings", "run_storm"]

_LOW = 40000
_WIDTH = 32
_DEAD = 40016
_PAUSE_AT_FULL_SPEED = 0.002
_LONGEST_OUTAGE = 20.0
_LONGEST_CONNECT = 1.0
_START_EVERY = 0.02
_POLL_INTERVAL = 0.05


class NoControl(RuntimeError):  # noqa: N818 - named like BlockingIOError
    """The unguarded control client did not connect to itself, so that its absence would prove nothing."""


@dataclass(frozen=True, slots=True)
class StormSettings:
    """Settings of a storm.

    Attributes:
        clients: number of clients that connect at the same time.
        restarts: number of rounds.
        attempts: connects of all clients together during each outage.
        every: seconds between two connects of a client while the server starts.
        patience: seconds after which a server that cannot start is helped: the clients that hold its port are killed.
        plain_server: True for a server without SO_REUSEADDR.
    """

    clients: int = 20
    restarts: int = 5
    attempts: int = 2000
    every: float = 0.25
    patience: float = 3.0
    plain_server: bool = False


@dataclass(frozen=True, slots=True)
class StormRound:
    """Result of one restart.

    Attributes:
        strategy: the clients' strategy.
        number: from 1.
        attempts: connects during the outage.
        self_connects: number of self-connects in this round, including those that the strategy dropped.
        failed_starts: number of failed attempts of the server to bind or listen.
        down: seconds from the server's first attempt to its start, plus the rest of the kernel's timer if ``helped``.
        helped: True if the server could not start within the patience.
        held_by: state of the self-connected socket on the port, or None.
        recovered: seconds from the first attempt until all clients were served; None if the server had to be helped.
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


def run_storm(
    strategy: Strategy, settings: StormSettings, progress: Callable[[StormRound], None]
) -> list[StormRound]:
    """Run all rounds in the calling thread's network namespace, which must be private.

    Raises:
        NoControl: an unguarded client did not connect to itself in this namespace.
        OSError: the namespace's sysctls cannot be set.
    """
    port = _DEAD
    usual = read_ephemeral_range()
    narrow = PortRange(_LOW, _LOW + _WIDTH - 1)
    write_ephemeral_range(narrow)
    _send_control(port)
    rounds = []
    with strategy.prepare(port), _Clients(strategy, port, settings) as clients:
        for number in range(1, settings.restarts + 1):
            write_ephemeral_range(narrow)
            clients.connect_at_full_speed(settings.attempts)
            write_ephemeral_range(usual)
            clients.slow_down()
            rounds.append(_start_server(number, strategy, settings, port, clients))
            progress(rounds[-1])
    return rounds


def _send_control(port: int) -> None:
    """Prove that an unguarded client connects to itself on this port; leaves nothing behind."""
    if not connects_to_itself(STRATEGY_HOST, port, attempts=40 * _WIDTH):
        raise NoControl(
            f"an unguarded client did not connect to itself on port {port}, so there is nothing to compare with"
        )


def _start_server(
    number: int, strategy: Strategy, settings: StormSettings, port: int, clients: _Clients
) -> StormRound:
    attempts, began = clients.attempts, time.monotonic()
    failed, helped, until = 0, False, 0.0
    held_by: TcpState | None = None
    while (listener := _try_to_listen(port, plain=settings.plain_server)) is None:
        failed += 1
        holder = _self_connected_socket(port)
        held_by = holder.state if holder is not None else held_by
        if time.monotonic() - began > settings.patience:
            helped = True
            is_time_wait = holder is not None and holder.state is TcpState.TIME_WAIT
            until = time.monotonic() + holder.expires_ms / 1000 if holder is not None and is_time_wait else until
            clients.kill_self_connected()
            _end_self_connects(port)
        time.sleep(_START_EVERY)
    down = time.monotonic() - began
    without_help = max(down, until - began)
    with _Server(listener, settings.clients) as server:
        all_served = server.wait_for_all(began + max(settings.patience, 20 * settings.every) + down)
        recovered = None if helped or all_served is None else all_served - began
    return StormRound(
        strategy=strategy.name,
        number=number,
        attempts=attempts,
        self_connects=clients.take_self_connects(),
        failed_starts=failed,
        down=round(without_help, 3),
        helped=helped,
        held_by=held_by.label if held_by is not None else None,
        recovered=None if recovered is None else round(recovered, 3),
    )


def _try_to_listen(port: int, *, plain: bool) -> socket.socket | None:
    """Start a server; None if the port is in use."""
    sock = socket.socket()
    try:
        if not plain:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((STRATEGY_HOST, port))
        sock.listen(256)
    except OSError as error:
        sock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return sock


def _self_connects_on(port: int) -> Iterator[TcpSocket]:
    with SockDiag() as diag:
        for sock in diag.dump():
            if sock.endpoints.local.port == port and sock.is_self_connected:
                yield sock


def _self_connected_socket(port: int) -> TcpSocket | None:
    return next(_self_connects_on(port), None)


def _end_self_connects(port: int) -> None:
    with SockDiag() as diag:
        for sock in list(_self_connects_on(port)):
            with contextlib.suppress(OSError):  # one that is still connected ends with its client
                end_self_connect(diag, sock)


class _Server:
    """A server that accepts until it is closed, then resets all its connections."""

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
        """Return the time at which all clients were served (time.monotonic), None if that did not happen in time."""
        return self._when if self._served.wait(max(0.0, deadline - time.monotonic())) else None

    def __enter__(self) -> _Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends accept() in the thread
        self._thread.join()
        self._listener.close()
        for sock in self._accepted:
            abort(sock)


class _Clients:
    """Threads that connect by one strategy, keep the connection until it ends, and connect again."""

    def __init__(self, strategy: Strategy, port: int, settings: StormSettings) -> None:
        self._strategy, self._port, self._settings = strategy, port, settings
        self._lock = threading.Lock()
        self._at_full_speed = threading.Event()
        self._ending = threading.Event()
        self._enough = threading.Event()
        self._kills = 0
        self._budget = 0
        self._self_connects = 0
        self._connecting = 0
        self.attempts = 0
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(settings.clients)]

    def __enter__(self) -> _Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._at_full_speed.set()
        for thread in self._threads:
            thread.join()

    def connect_at_full_speed(self, attempts: int) -> None:
        """Connect as fast as possible until that many attempts were made, or until every client has a connection."""
        with self._lock:
            self.attempts, self._budget = 0, attempts
        self._enough.clear()
        self._at_full_speed.set()
        self._enough.wait(_LONGEST_OUTAGE)
        self._at_full_speed.clear()

    def slow_down(self) -> None:
        """Connect at the usual pace from now on; return when the connects in progress have ended.

        A client that resets a self-connect, or binds before it compares, holds the port for some microseconds. In a
        range of a few ports some client does at any moment; on the default range this is very unlikely.
        """
        self._at_full_speed.clear()
        deadline = time.monotonic() + _LONGEST_CONNECT
        while self._connecting and time.monotonic() < deadline:
            time.sleep(0.001)

    def kill_self_connected(self) -> None:
        """Kill the clients that are connected to themselves; new clients replace them."""
        self._kills += 1
        time.sleep(2 * _POLL_INTERVAL)

    def take_self_connects(self) -> int:
        """Return the number of self-connects since the last call."""
        with self._lock:
            count, self._self_connects = self._self_connects, 0
        return count

    def _run(self) -> None:
        generator = random.Random()
        while not self._ending.is_set():
            sock = self._dial()
            if sock is not None:
                self._hold(sock)
            elif self._at_full_speed.is_set():
                time.sleep(_PAUSE_AT_FULL_SPEED)
            else:
                self._at_full_speed.wait(self._settings.every * generator.uniform(0.5, 1.5))

    def _dial(self) -> socket.socket | None:
        sock = None
        with self._lock:
            self._connecting += 1
        try:
            sock = self._strategy.dial(self._port, self._notice)
        except OSError:
            pass
        if sock is not None and is_to_itself(sock):
            self._notice()
        with self._lock:
            self._connecting -= 1
            self.attempts += 1
            if self.attempts >= self._budget:
                self._enough.set()
                self._at_full_speed.clear()
        return sock

    def _notice(self) -> None:
        with self._lock:
            self._self_connects += 1

    def _hold(self, sock: socket.socket) -> None:
        """Wait for the end of the connection, as an idle client does."""
        kills, is_self = self._kills, is_to_itself(sock)
        sock.settimeout(_POLL_INTERVAL)
        try:
            while not self._ending.is_set() and not (is_self and self._kills != kills):
                try:
                    if not sock.recv(1):
                        return
                except TimeoutError:
                    continue
        except OSError:
            pass  # reset by the server
        finally:
            abort(sock)
