"""End of one self-connected socket: by SOCK_DESTROY (sock_diag(7)), or a TIME-WAIT by TCP_REPAIR.

Kernels up to at least 5.10 answer SOCK_DESTROY of a TIME-WAIT with EOPNOTSUPP (seen on 5.4.119 and 5.10.262), as do
kernels of any release without CONFIG_INET_DIAG_DESTROY for every socket.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from tailbite.errors import NetlinkError
from tailbite.kernel.sock_diag import TcpState
from tailbite.kernel.tcp_repair import replace_time_wait

if TYPE_CHECKING:
    from tailbite.kernel.sock_diag import SockDiag, TcpSocket

__all__ = ["LACKS_DESTROY", "end_self_connect"]

LACKS_DESTROY: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.EPROTONOSUPPORT})
"""Answers of a kernel, or of a sandbox in its place, that has no SOCK_DESTROY: EINVAL before Linux 4.5."""
_VANISHED: Final = frozenset({errno.ENOENT, errno.ESTALE})


def end_self_connect(diag: SockDiag, target: TcpSocket) -> bool:
    """End a self-connected socket, open or in TIME-WAIT; without effect if it has ended meanwhile.

    The kernel compares the socket's cookie, so no other socket is ended in its place. TCP_REPAIR has to wait until
    the TIME-WAIT is a second old, and then ends whatever TIME-WAIT the endpoints have.

    Args:
        diag: of the network namespace that the socket belongs to and the calling thread is in.
        target: the socket, as ``diag`` listed it.

    Returns:
        False if it had ended by itself.

    Raises:
        NetlinkError: the kernel refused: EPERM without CAP_NET_ADMIN in the namespace, one of
            :data:`LACKS_DESTROY` where the kernel destroys no connections.
        OSError: TCP_REPAIR was refused, see :func:`~tailbite.kernel.tcp_repair.replace_time_wait`.
    """
    try:
        diag.destroy(target)
    except NetlinkError as error:
        if error.errno in LACKS_DESTROY and target.state is TcpState.TIME_WAIT:
            return _replace(diag, target)
        if error.errno not in _VANISHED or _is_listed(diag, target):
            raise
        return False
    return True


def _replace(diag: SockDiag, target: TcpSocket) -> bool:
    try:
        replace_time_wait(target.endpoints.local, target.family, interface=target.interface)
    except OSError:
        if _is_listed(diag, target):
            raise
        return False
    return True


def _is_listed(diag: SockDiag, target: TcpSocket) -> bool:
    port = target.endpoints.local.port
    left = diag.listing((target.state,), local_port=port).sockets
    return any((one.cookie, one.endpoints) == (target.cookie, target.endpoints) for one in left)
