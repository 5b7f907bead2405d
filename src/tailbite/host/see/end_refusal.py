"""Reasons why a self-connect could not be ended, in the same words for every command that tries."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from tailbite.host.see.records import not_permitted
from tailbite.kernel.end_socket import LACKS_DESTROY
from tailbite.kernel.inet_diag import TcpState

if TYPE_CHECKING:
    from tailbite.core.address import Endpoint

__all__ = ["cannot_destroy", "why_not_ended"]

_LACKS_REPAIR: Final = frozenset({errno.ENOPROTOOPT, errno.ENOSYS})
_NO_NAMESPACE: Final = frozenset({errno.ENOENT, errno.ESRCH})


def cannot_destroy(end: Endpoint) -> str:
    """Return the sentence for a connection on a kernel without SOCK_DESTROY."""
    return f"this kernel cannot destroy the connection of {end} (SOCK_DESTROY): end the program that has it"


def why_not_ended(error: OSError, end: Endpoint, state: TcpState) -> str:
    """Return why a self-connect could not be ended, and what to do, without a full stop.

    Args:
        error: what :func:`~tailbite.kernel.end_socket.end_self_connect` or entering the network namespace raised.
        end: the address and port of the socket.
        state: its state when it was seen; it may have been closed since.
    """
    number = error.errno or 0
    if number in (errno.EPERM, errno.EACCES):
        return not_permitted("destroy it")
    if number in _NO_NAMESPACE:
        return "its network namespace can no longer be entered: the process that was in it has ended"
    if number in LACKS_DESTROY and state is not TcpState.TIME_WAIT:
        return cannot_destroy(end)
    if number in LACKS_DESTROY | _LACKS_REPAIR:
        why = "this kernel can end a TIME-WAIT neither by SOCK_DESTROY nor by TCP_REPAIR"
    elif number == errno.EADDRNOTAVAIL:  # TCP_REPAIR's alone
        why = "the kernel did not let the TIME-WAIT be replaced: TCP timestamps or net.ipv4.tcp_tw_reuse are off"
    else:
        why = f"the kernel refused to end it ({error.strerror or error})"
        if state is not TcpState.TIME_WAIT:
            return f"{why}: end the program that has it"
    return f"{why}; wait for its end, which takes a minute at most"
