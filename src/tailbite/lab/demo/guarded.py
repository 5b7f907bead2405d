"""The last act: the same reconnect loop with tailbite, and a server that starts meanwhile."""

from __future__ import annotations

import errno
import itertools
import random
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tailbite
from tailbite.kernel.sock_diag import TcpState
from tailbite.kernel.sockopt import abort, supports_local_port_range
from tailbite.lab.demo.probes import DEMO_HOST, sockets_on
from tailbite.lab.demo.records import DemoAct, Measurement
from tailbite.testkit.plain_client import connects_to_itself

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.lab.demo.records import Narrator

__all__ = ["play_guarded"]

_GREETING = b"the real server\n"
_CONTROL_ATTEMPTS = 4
"""In a range of two ports the first attempt self-connects; the others allow for the kernel's perturbation."""
_RESTART_PAUSE = 0.01
_RESTART_LIMIT = 10.0
_CLIENT_PAUSE = 0.001
"""Seconds between two attempts without IP_LOCAL_PORT_RANGE. In a range of two ports each of them is a self-connect
until it is reset; without a pause, the port is in use nearly all the time on a machine of one processor."""


@dataclass(frozen=True, slots=True)
class _ServerStart:
    """The server's start while the guarded client reconnects.

    Attributes:
        outcome: ``ok``, or the name of the errno of bind or listen.
        attempts: number of attempts to bind.
        seconds: time from the first attempt until the server listens.
        answer: the line that the client read from the server.
    """

    outcome: str
    attempts: int
    seconds: float
    answer: str


def play_guarded(narrator: Narrator, port: int, attempts: int, *, control: bool = True) -> DemoAct:
    """Reconnect with tailbite at least ``attempts`` times, then start the server.

    Args:
        narrator: presentation.
        port: the dead port.
        attempts: number of refused connects before the server starts.
        control: first prove with a plain socket that the trap is still armed.
    """
    title = "tailbite: the same endless reconnect"
    narrator.begin_act(6, title)
    is_armed = control and _is_armed(port)
    if control:
        narrator.explain(
            "First a plain socket, to prove that the trap is still armed: it connected to itself, and was reset."
            if is_armed
            else "First a plain socket, to prove that the trap is still armed: it did NOT connect to itself."
        )
    narrator.show_line(f"sock = tailbite.create_connection(({DEMO_HOST!r}, {port}))")
    loop = _GuardedLoop(port, narrator.count_attempts)
    loop.start()
    loop.wait_for_attempts(attempts)
    left = _count_left(port)
    server = _start_server(port, loop)
    narrator.explain(
        f"{loop.attempts:,} attempts while the server was down, {loop.self_connects} of them self-connects, "
        f"{left} sockets left on the port. The server's start: {server.outcome} "
        f"at attempt {server.attempts}, in {server.seconds * 1000:.1f} ms."
    )
    narrator.show_line(f"the client reads: {server.answer!r}")
    return _result(title, loop, server, attempts, left, is_armed=is_armed, control=control)


def _result(
    title: str, loop: _GuardedLoop, server: _ServerStart, attempts: int, left: int, *, is_armed: bool, control: bool
) -> DemoAct:
    return DemoAct(
        6,
        title,
        "no self-connect; the server starts at once and answers",
        f"{loop.attempts:,} attempts, {loop.self_connects} self-connects; "
        f"server: {server.outcome}; answer {server.answer!r}",
        (is_armed or not control)
        and server.outcome == "ok"
        and loop.self_connects == 0
        and left == 0
        and loop.attempts >= attempts
        and server.answer == _GREETING.decode().strip(),
        (
            Measurement("control_self_connected", is_armed),
            Measurement("attempts", loop.attempts),
            Measurement("self_connects", loop.self_connects),
            Measurement("sockets_left_on_the_port", left),
            Measurement("bind", server.outcome),
            Measurement("bind_attempts", server.attempts),
            Measurement("server_start_milliseconds", round(server.seconds * 1000, 2)),
            Measurement("answer", server.answer),
        ),
    )


def _count_left(port: int) -> int:
    """Count the sockets that stay on the port; the one of the attempt in progress does not."""
    lasting = {sock.inode for sock in sockets_on(port)} - {0}
    time.sleep(_RESTART_PAUSE)
    return sum(sock.inode in lasting or sock.state is TcpState.TIME_WAIT for sock in sockets_on(port))


def _is_armed(port: int) -> bool:
    return connects_to_itself(DEMO_HOST, port, attempts=_CONTROL_ATTEMPTS)


def _start_server(port: int, loop: _GuardedLoop) -> _ServerStart:
    """Start the server as a supervisor does: again, if the port is in use.

    Without IP_LOCAL_PORT_RANGE a self-connect exists for microseconds before it is reset, and a bind at exactly
    that moment fails. With the option the first attempt must succeed.
    """
    began = time.monotonic()
    deadline = began if supports_local_port_range() else began + _RESTART_LIMIT
    for attempt in itertools.count(1):
        try:
            return _serve_once(port, loop, attempt, began)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                loop.stop()
                name = errno.errorcode.get(error.errno or 0, str(error))
                return _ServerStart(name, attempt, time.monotonic() - began, "")
        time.sleep(_RESTART_PAUSE * random.uniform(0.5, 1.5))  # not in step with the client
    raise AssertionError("unreachable")


def _serve_once(port: int, loop: _GuardedLoop, attempt: int, began: float) -> _ServerStart:
    with socket.socket() as server:  # without SO_REUSEADDR, which create_server would set
        server.bind((DEMO_HOST, port))
        server.listen()
        seconds = time.monotonic() - began
        server.settimeout(10)
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(_GREETING)
            return _ServerStart("ok", attempt, seconds, loop.finish())


class _GuardedLoop:
    """A client in a thread of its own: reconnects until there is a server, then reads one line."""

    def __init__(self, port: int, count: Callable[[int], None]) -> None:
        self.attempts = 0
        self.self_connects = 0
        self._port = port
        self._count = count
        self._pause = 0.0 if supports_local_port_range() else _CLIENT_PAUSE
        self._answer = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait_for_attempts(self, attempts: int) -> None:
        while self.attempts < attempts and self._thread.is_alive():
            time.sleep(0.005)
            self._count(self.attempts)

    def finish(self) -> str:
        """Wait until the client has read its line, and return the line."""
        self._thread.join(10)
        return self._answer

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                sock = tailbite.create_connection((DEMO_HOST, self._port), timeout=5)
            except ConnectionRefusedError:
                self.attempts += 1
                self._stopped.wait(self._pause)
                continue
            with sock:
                if tailbite.is_self_connected(sock):
                    self.self_connects += 1
                    abort(sock)
                    continue
                self._answer = sock.makefile().readline().strip()
                return
