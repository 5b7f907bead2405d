"""Destroying a self-connect right after it was noticed (SOCK_DESTROY), so that its server can start."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tailbite.core.address import FourTuple
from tailbite.host.see.end_refusal import why_not_ended
from tailbite.host.see.visit import call_in_namespace
from tailbite.kernel.end_socket import end_self_connect
from tailbite.kernel.sock_diag import SockDiag, TcpState
from tailbite.watch.records import EndResult, Moment

if TYPE_CHECKING:
    from tailbite.watch.records import SelfConnectEvent

__all__ = ["confirm_port_free", "destroy_noticed"]


def destroy_noticed(event: SelfConnectEvent) -> EndResult:
    """Destroy the self-connect of an event, open or in TIME-WAIT. Never raises for what the kernel refuses.

    The kernel compares the socket's cookie, which is looked up by the endpoints first. Any socket with these
    endpoints is connected to itself, so no other socket can be destroyed.
    """
    if event.namespace is None:
        return EndResult(False, False, 0, "the process that dialled has ended: its network namespace is not known")
    try:
        is_destroyed, finished, refused = call_in_namespace(event.namespace, partial(_destroy, event))
    except OSError as error:  # the namespace cannot be entered, or sock_diag does not answer there
        return EndResult(False, False, _since(event.time, time.time()), _why_refused(event, error))
    return EndResult(is_destroyed, not refused, _since(event.time, finished), refused)


def confirm_port_free(event: SelfConnectEvent, result: EndResult) -> EndResult:
    """Add to the result whether the port is free now; a separate step, because it takes longer than destroying."""
    if not result.is_destroyed or event.namespace is None:
        return result
    try:
        return replace(result, is_port_free=not call_in_namespace(event.namespace, partial(_is_bound, event)))
    except OSError:
        return result


def _destroy(event: SelfConnectEvent) -> tuple[bool, float, str]:
    """Return whether there was something to destroy, when that was done, and why it was refused."""
    with SockDiag() as diag:
        target = diag.find(event.family, FourTuple(event.endpoint, event.endpoint))
        if target is None:
            return False, time.time(), ""
        try:
            return end_self_connect(diag, target), time.time(), ""
        except OSError as error:
            return False, time.time(), why_not_ended(error, event.endpoint, target.state)


def _why_refused(event: SelfConnectEvent, error: OSError) -> str:
    state = TcpState.TIME_WAIT if event.moment is Moment.ENDED else TcpState.ESTABLISHED
    return why_not_ended(error, event.endpoint, state)


def _is_bound(event: SelfConnectEvent) -> bool:
    """Tell whether the owner had bound the port itself: then it keeps it (visible since Linux 6.8)."""
    with SockDiag() as diag:
        left = diag.listing((TcpState.BOUND_INACTIVE,), local_port=event.endpoint.port).sockets
    return any(one.endpoints.local.port == event.endpoint.port for one in left)


def _since(began: float, ended: float) -> int:
    """Return the microseconds between two times of a clock that may have been set back."""
    return max(round((ended - began) * 1e6), 0)
