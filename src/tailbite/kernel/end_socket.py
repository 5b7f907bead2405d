"""End of one self-connected socket: by SOCK_DESTROY (sock_diag(7)), or a TIME-WAIT by TCP_REPAIR.

Kernels up to at least 5.10 answer SOCK_DESTROY of a TIME-WAIT with EOPNOTSUPP (seen on 5.4.119 and 5.10.262), as do
kernels of any release without CONFIG_INET_DIAG_DESTROY for every socket.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from tailbite.errors import NetlinkError
from tailbite.kernel.sock_diag import TcpState
from tailbite.kernel.tcp_repair import replace_time_wait

if TYPE_CHECKING:
    from tailbite.kernel.sock_diag import SockDiag, TcpSocket

__all__ = ["end_self_connect"]


def end_self_connect(diag: SockDiag, target: TcpSocket) -> None:
    """End a self-connected socket, open or in TIME-WAIT; without effect if it has ended meanwhile.

    The kernel compares the socket's cookie, so no other socket is ended in its place. TCP_REPAIR has to wait until
    the TIME-WAIT is a second old, and then ends whatever TIME-WAIT the endpoints have.

    Args:
        diag: of the network namespace that the socket belongs to and the calling thread is in.
        target: the socket, as ``diag`` listed it.

    Raises:
        NetlinkError: the kernel refused: EPERM without CAP_NET_ADMIN in the namespace, EOPNOTSUPP where the kernel
            destroys no connections.
        OSError: TCP_REPAIR was refused, see :func:`~tailbite.kernel.tcp_repair.replace_time_wait`.
    """
    try:
        diag.destroy(target)
    except NetlinkError as error:
        if error.errno == errno.EOPNOTSUPP and target.state is TcpState.TIME_WAIT:
            replace_time_wait(target.endpoints.local, target.family, interface=target.interface)
        elif error.errno != errno.ENOENT:
            raise
