"""Self-connects and the ways in which they end, for tests of what notices them."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from tailbite.kernel.sock_diag import SockDiag

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ENDINGS", "connected_to_itself"]

_HOLD = """
import socket, sys
sock = socket.socket()
sock.bind(("127.0.0.1", int(sys.argv[1])))
sock.connect(("127.0.0.1", int(sys.argv[1])))
print(flush=True)
input()
"""


def connected_to_itself(port: int, host: str = "127.0.0.1") -> socket.socket:
    """Return a socket that is connected to itself."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, port))
    sock.connect((host, port))
    return sock


def _close(port: int) -> None:
    connected_to_itself(port).close()


def _kill_9(port: int) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(port)], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)


def _shutdown(port: int) -> None:
    with connected_to_itself(port) as sock:
        sock.shutdown(socket.SHUT_RDWR)


def _close_unread(port: int) -> None:
    with connected_to_itself(port) as sock:
        sock.sendall(b"unread")


def _linger_unread(port: int) -> None:
    with connected_to_itself(port) as sock:
        sock.sendall(b"unread")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _linger(port: int) -> None:
    with connected_to_itself(port) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _disconnect(port: int) -> None:
    import ctypes

    with connected_to_itself(port) as sock:
        assert ctypes.CDLL(None).connect(sock.fileno(), bytes(16), 16) == 0


def _destroy(port: int) -> None:
    with connected_to_itself(port), SockDiag() as diag:
        (target,) = (one for one in diag.self_connects().sockets if one.endpoints.local.port == port)
        diag.destroy(target)


_HELD: list[socket.socket] = []


def _hold(port: int) -> None:
    _HELD.append(connected_to_itself(port))


ENDINGS: Final[dict[str, tuple[Callable[[int], None], bool, bool]]] = {
    "close": (_close, True, True),
    "kill -9": (_kill_9, True, True),
    "shutdown and close": (_shutdown, True, True),
    "close with unread data": (_close_unread, False, True),
    "SO_LINGER 0 with unread data": (_linger_unread, False, True),
    "SO_LINGER 0": (_linger, False, False),
    "AF_UNSPEC": (_disconnect, False, False),
    "SOCK_DESTROY": (_destroy, False, True),
    "held": (_hold, True, False),
}
"""By name: what ends a self-connect at a port, whether a later inspection finds it, and whether its end is reported.
eBPF reports each of them."""
