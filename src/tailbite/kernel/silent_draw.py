"""The source port that the kernel would choose for a connect, found out without a packet.

TCP Fast Open defers the SYN of a connect to the first write, but connect(2) chooses the source port at once
(``tcp_v4_connect`` calls ``inet_hash_connect`` before ``tcp_fastopen_defer_connect``; Linux 4.11). A socket that is
closed without a write has sent nothing, and no server notices.

The kernel chooses source ports from one sequence for each source address, destination address and destination port
(RFC 6056, algorithm 4: "double-hash port selection"; before Linux 5.12 one sequence for all). So a port that was
chosen tells which ports come next: Linux moves on by 2 to 16 ports each time, and past ports that are in use.
"""

from __future__ import annotations

import socket
from typing import Final

from tailbite.kernel.sockopt import IP_BIND_ADDRESS_NO_PORT

__all__ = ["draw_source_port"]

_TCP_FASTOPEN_CONNECT: Final = 30  # Linux 4.11, include/uapi/linux/tcp.h
_TCP_FASTOPEN_NO_COOKIE: Final = 34  # Linux 4.15: no cookie of the server is needed to defer the SYN


def draw_source_port(family: int, host: str, port: int, scope: int = 0) -> int:
    """Have the kernel choose the source port of a connect from ``host`` to ``port`` on the same ``host``.

    Nothing is sent. The sequence moves on, as by any connect.

    Args:
        family: AF_INET or AF_INET6.
        host: a numeric address of this host; neither a wildcard nor v4-mapped.
        port: the destination port.
        scope: the interface's index, for a link-local address.

    Raises:
        OSError: EADDRNOTAVAIL, the address is not one of this host, or no source port is left; EOPNOTSUPP, the
            sysctl tcp_fastopen forbids clients to use it; ENOPROTOOPT before Linux 4.15.
    """
    rest = (0, scope) if family == socket.AF_INET6 else ()
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_FASTOPEN_CONNECT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_FASTOPEN_NO_COOKIE, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((host, 0, *rest))
        sock.connect((host, port, *rest))
        chosen: int = sock.getsockname()[1]
        return chosen
