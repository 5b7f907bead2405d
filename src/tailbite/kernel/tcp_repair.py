"""End of a TIME-WAIT from a port to itself without SOCK_DESTROY: TCP_REPAIR (Linux 3.5, CAP_NET_ADMIN).

A socket in repair mode binds a port that is in use (SK_FORCE_REUSE, tcp_repair in net/ipv4/tcp.c) and connects
without sending a segment. A connect to the endpoints of a TIME-WAIT takes its place (tcp_twsk_unique,
net/ipv4/tcp_ipv4.c), and a socket in repair mode leaves nothing when it is closed. Kernels up to at least 5.10 cannot
destroy a TIME-WAIT in another way (seen on 5.4.119 and 5.10.46).
"""

from __future__ import annotations

import errno
import socket
import time
from typing import TYPE_CHECKING

from tailbite.kernel.sockopt import abort

if TYPE_CHECKING:
    from tailbite.core.address import Endpoint

__all__ = ["replace_time_wait"]

_TCP_REPAIR = 19  # include/uapi/linux/tcp.h
_BETWEEN_TRIES = 0.05


def replace_time_wait(end: Endpoint, family: int, *, interface: int = 0, patience: float = 5.0) -> None:
    """End the TIME-WAIT of a self-connect in the calling thread's network namespace.

    Args:
        end: its address and port, on both sides.
        family: AF_INET or AF_INET6, as the socket was made.
        interface: index of the interface that the socket was bound to (SO_BINDTODEVICE); 0 for none. A TIME-WAIT of
            another one is not taken over, and no error says so.
        patience: seconds to wait at most: a TIME-WAIT can be taken over when it is older than a second.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN; EADDRNOTAVAIL, it could not be taken over: TCP timestamps or
            ``tcp_tw_reuse`` are off.
    """
    host = f"::ffff:{end.host}" if family == socket.AF_INET6 and ":" not in end.host else end.host
    address = (host, end.port) if family == socket.AF_INET else (host, end.port, 0, end.scope)
    tries = max(1, round(patience / _BETWEEN_TRIES))
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        if interface:
            name = socket.if_indextoname(interface).encode()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)
        sock.bind(address)
        while (number := sock.connect_ex(address)) == errno.EADDRNOTAVAIL and tries > 0:
            tries -= 1
            time.sleep(_BETWEEN_TRIES)
        if number:
            raise OSError(number, "the TIME-WAIT cannot be taken over", str(end))
    finally:
        abort(sock)
