"""Observations of the demonstration: sockets on the port, and attempts of a server to bind it."""

from __future__ import annotations

import errno
import socket
import time
from typing import TYPE_CHECKING, Final

from tailbite.kernel.sock_diag import SockDiag, TcpSocket

if TYPE_CHECKING:
    from tailbite.lab.demo.records import Narrator

__all__ = ["DEMO_HOST", "TIME_WAIT_LIMIT", "bind_both_ways", "sockets_on", "wait_until_bindable"]

DEMO_HOST: Final = "127.0.0.1"
TIME_WAIT_LIMIT: Final = 90.0
"""Seconds to wait for the end of TIME-WAIT, which lasts 60 s (include/net/tcp.h, TCP_TIMEWAIT_LEN)."""


def sockets_on(port: int) -> list[TcpSocket]:
    """Return the IPv4 sockets of this namespace whose local port is ``port``."""
    with SockDiag() as diag:
        return [s for s in diag.dump(families=(socket.AF_INET,)) if s.endpoints.local.port == port]


def bind_both_ways(narrator: Narrator, port: int) -> tuple[str, str]:
    """Start a server without and with SO_REUSEADDR; return ``ok`` or the name of the errno for each."""
    outcomes = []
    for reuse in (False, True):
        outcome = _bind(port, reuse=reuse)
        words = "Address already in use" if outcome == "EADDRINUSE" else outcome
        narrator.show_line(f"server{' with SO_REUSEADDR' if reuse else ''}: bind({DEMO_HOST}:{port}): {words}")
        outcomes.append(outcome)
    return outcomes[0], outcomes[1]


def wait_until_bindable(port: int, since: float) -> float:
    """Wait until a server with SO_REUSEADDR can bind; return the seconds since ``since`` (time.monotonic)."""
    while _bind(port, reuse=True) != "ok" and time.monotonic() - since < TIME_WAIT_LIMIT:
        time.sleep(0.02)
    return time.monotonic() - since


def _bind(port: int, *, reuse: bool) -> str:
    with socket.socket() as server:
        if reuse:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((DEMO_HOST, port))
            server.listen()
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))
    return "ok"
