"""A dead port that a plain client connects to itself on, with certainty, in the thread's network namespace."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

from support.guarded import wait_until
from tailbite.core.address import Endpoint, FourTuple
from tailbite.core.ports import PortRange
from tailbite.kernel.sock_diag import SockDiag, TcpSocket, TcpState
from tailbite.kernel.sockopt import abort, leave_port_to_connect
from tailbite.kernel.sysctl import write_ephemeral_range

PORT = 32246


@dataclass(frozen=True)
class Trap:
    """A namespace whose ephemeral range is two ports, one of them the dead port.

    The connect allocator takes the parity of the range's low end first, bind(port 0) the other one: so the
    dead port is the low end for clients that connect at once, the high end for clients that bind first.
    """

    binds_first: bool = False
    port: int = PORT

    def set(self) -> Trap:
        low = self.port - 1 if self.binds_first else self.port
        write_ephemeral_range(PortRange(low, low + 1))
        return self

    def connects_to_itself(
        self, host: str = "127.0.0.1", source: str | None = None, *, leaves_port: bool = False
    ) -> bool:
        """The control: a plain socket. True if it connected to itself; leaves nothing behind."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family)
        try:
            if leaves_port:
                leave_port_to_connect(sock)
            if source is not None:
                sock.bind((source, 0))
            sock.connect((host, self.port))
            local, remote = (Endpoint.from_sockaddr(name) for name in (sock.getsockname(), sock.getpeername()))
            return FourTuple(local, remote).is_self
        except ConnectionRefusedError:
            return False
        finally:
            abort(sock)

    def control(self, host: str = "127.0.0.1", source: str | None = None, *, leaves_port: bool = False) -> None:
        """Prove that the trap works. A range's perturbed start may need a second draw, never a third."""
        assert any(self.connects_to_itself(host, source, leaves_port=leaves_port) for _ in range(4)), (
            "the control did not self-connect"
        )

    def control_fails(self) -> None:
        """Prove that at present a plain socket does not connect to itself."""
        assert not any(self.connects_to_itself() for _ in range(8)), "a plain socket still connects to itself"


def leftovers(port: int = PORT) -> list[TcpSocket]:
    """Every socket on ``port`` in this thread's namespace, TIME-WAIT included."""
    with SockDiag() as diag:
        return [found for found in diag.dump() if found.endpoints.local.port == port]


def wait_for_time_wait(port: int = PORT) -> None:
    """Wait until the FIN of a closed self-connect is answered: loopback delivers in a softirq, perhaps later."""
    wait_until(lambda: [each.state for each in leftovers(port)] == [TcpState.TIME_WAIT], "its FIN is answered")


def wait_for_release(port: int = PORT) -> None:
    """Wait until nothing has the port: helpers of ``run`` may end after the program. A TIME-WAIT lasts longer."""
    wait_until(lambda: leftovers(port) == [], "the helpers have released the port", seconds=40)


def server_can_bind(host: str = "127.0.0.1", port: int = PORT, *, reuse: bool = False) -> bool:
    """Start what a server starts with: bind and listen, without SO_REUSEADDR unless told so."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as sock:
        if reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
            sock.listen()
        except OSError:
            return False
        return True
