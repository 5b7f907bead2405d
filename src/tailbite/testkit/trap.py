"""A trap inside one process: connects to one dead port become self-connects, without privilege or namespace.

IP_LOCAL_PORT_RANGE (Linux 6.3) makes the kernel choose a socket's source port from a range. tailbite uses it to
exclude the destination port; the trap uses it to leave nothing else: a range of the destination port alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

from tailbite.core.address import Endpoint, is_self
from tailbite.core.ports import PortRange
from tailbite.kernel.sock_diag import SockDiag
from tailbite.kernel.sockopt import RESET_ON_CLOSE, local_port_range, set_local_port_range, supports_local_port_range
from tailbite.kernel.sysctl import read_ephemeral_range
from tailbite.testkit.hook import listen, unlisten

if TYPE_CHECKING:
    from tailbite.kernel.sock_diag import TcpSocket

__all__ = ["ProcessTrap"]

_TRIES = 100


class ProcessTrap:
    """A dead port on which this process's unguarded Python sockets connect to themselves. A context manager.

    Attributes:
        host: 127.0.0.1.
        port: the dead port.
        self_connects: the connects for which the trap was armed, without those of sockets that protect themselves.

    Raises:
        OSError: no port is free.
        RuntimeError: a plain socket does not connect to itself in the trap.
    """

    host = "127.0.0.1"

    def __init__(self) -> None:
        self.self_connects = 0
        self.port = _free_port()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, as connect() takes them."""
        return (self.host, self.port)

    @staticmethod
    def why_unavailable() -> str | None:
        """Return why this system cannot have the trap, or None if it can."""
        if not supports_local_port_range():
            return "the trap needs IP_LOCAL_PORT_RANGE, which Linux has since 6.3"
        return None

    def __enter__(self) -> ProcessTrap:
        listen(self._arm)
        try:
            self.control()
        except BaseException:
            unlisten(self._arm)
            raise
        self.self_connects = 0
        return self

    def __exit__(self, *_: object) -> None:
        unlisten(self._arm)

    def control(self) -> None:
        """Prove that the trap is armed: connect a plain socket, check that it connected to itself, and reset it.

        Raises:
            RuntimeError: it did not, so a client that does not either proves nothing.
        """
        sock = socket.socket()
        try:
            sock.connect(self.address)
            ends = (Endpoint.from_sockaddr(sock.getsockname()), Endpoint.from_sockaddr(sock.getpeername()))
            if not is_self(*ends):
                raise RuntimeError(f"a server listens on {ends[1]}: this is no longer a dead port")
        except OSError as error:
            raise RuntimeError(
                f"a plain connect to the dead port {self.port} did not connect to itself: {error}"
            ) from error
        finally:
            # Reset as abort() does, but not through Python's close(): the watch must not count this for the test.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            os.close(sock.detach())

    def sockets(self) -> list[TcpSocket]:
        """Return the self-connected sockets on the port right now, TIME-WAIT included."""
        with SockDiag() as diag:
            return [s for s in diag.listing(local_port=self.port).sockets if s.is_self_connected]

    def _arm(self, sock: socket.socket, address: Any) -> None:
        if not isinstance(address, tuple) or len(address) < 2 or address[1] != self.port:
            return
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
            return
        with contextlib.suppress(OSError):
            if sock.getsockname()[1] == 0 and local_port_range(sock) == (0, 0):
                set_local_port_range(sock, PortRange(self.port, self.port))
                self.self_connects += 1


def _free_port() -> int:
    """Choose an unused port of the ephemeral range; ports on which an earlier trap left something are skipped."""
    ephemeral = read_ephemeral_range()
    with SockDiag() as diag:
        used = {s.endpoints.local.port for s in diag.listing().sockets}
    for _ in range(_TRIES):
        port = ephemeral.low + int.from_bytes(os.urandom(4), "little") % len(ephemeral)
        if port not in used:
            return port
    raise OSError(f"found no unused port in the ephemeral range {ephemeral}")
