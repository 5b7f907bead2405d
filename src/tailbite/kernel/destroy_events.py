"""Self-connects at the moment the kernel destroys their sockets: the netlink groups SKNLGRP_INET_TCP_DESTROY.

Since Linux 4.3 the kernel offers each TCP socket that it destroys to the listeners of a group (linux/sock_diag.h),
with its endpoints and ``struct tcp_info``. No privilege is needed. A filter on the netlink socket drops all but
self-connects before this process is woken.

Every listener makes the kernel hand each closing socket of the namespace to a work queue first, whatever the filter
does with it there. So :mod:`tailbite.watch.sources` leaves the groups where too many sockets close.

Not reported: a socket that was disconnected before it was closed (connect(2) with AF_UNSPEC, and the abort that
SO_LINGER with 0 seconds makes), because its endpoints are gone by then; and a socket that is still open.
"""

from __future__ import annotations

import errno
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tailbite.kernel import tcp_info
from tailbite.kernel.inet_diag import INET_DIAG_INFO, decode, decode_attribute
from tailbite.kernel.netlink import messages
from tailbite.kernel.socket_filter import attach_filter

if TYPE_CHECKING:
    from types import TracebackType

    from tailbite.core.address import Endpoint
    from tailbite.kernel.tcp_info import TcpInfo

__all__ = ["DESTROY_FILTER", "DestroyEvents", "Destroyed", "decode_event"]

_NETLINK_SOCK_DIAG: Final = 4
_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP, _LISTEN_ALL_NSID = 1, 8  # include/uapi/linux/netlink.h
_GROUPS: Final = (1, 3)  # SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY
_LARGEST = 65536

# Offsets in the message: struct nlmsghdr has 16 bytes; in struct inet_diag_msg the ports are at 4 and 6, the
# addresses at 8 and 24, with 16 bytes each; the kernel clears what an IPv4 address does not fill.
_LOCAL_PORT, _REMOTE_PORT, _LOCAL, _REMOTE = 20, 22, 24, 40

# Classic BPF: code, jump if true, jump if false, operand.
_LOAD_HALF, _LOAD_WORD, _A_TO_X, _IF_EQUAL, _IF_X, _RETURN = 0x28, 0x20, 0x07, 0x15, 0x1D, 0x06


def _same(code: int, local: int, remote: int, *, left: int) -> list[tuple[int, int, int, int]]:
    """Compare two places; if they differ, skip the ``left`` instructions up to the one that drops the message."""
    return [(code, 0, 0, local), (_A_TO_X, 0, 0, 0), (code, 0, 0, remote), (_IF_X, 0, left, 0)]


DESTROY_FILTER: Final = (
    (_LOAD_HALF, 0, 0, _LOCAL_PORT),
    (_IF_EQUAL, 21, 0, 0),  # port 0: a socket that was disconnected, or never connected
    *_same(_LOAD_HALF, _LOCAL_PORT, _REMOTE_PORT, left=17),
    *_same(_LOAD_WORD, _LOCAL, _REMOTE, left=13),
    *_same(_LOAD_WORD, _LOCAL + 4, _REMOTE + 4, left=9),
    *_same(_LOAD_WORD, _LOCAL + 8, _REMOTE + 8, left=5),
    *_same(_LOAD_WORD, _LOCAL + 12, _REMOTE + 12, left=1),
    (_RETURN, 0, 0, 0xFFFFFFFF),  # keep it
    (_RETURN, 0, 0, 0),  # drop it
)
"""Keeps the message of a socket whose ports are equal and not 0, and whose addresses are equal."""


@dataclass(frozen=True, slots=True)
class Destroyed:
    """A self-connected socket that the kernel has just destroyed.

    Attributes:
        time: when this process read the event, seconds since the epoch.
        family: AF_INET or AF_INET6, as the socket was made.
        endpoint: both ends of the connection.
        traffic: what went through it, a FIN counted as one byte; None if the kernel did not say.
        is_here: True if it was in the network namespace of the listener.

    Its owner is no longer known: the kernel reports every closed socket as root's.
    """

    time: float
    family: int
    endpoint: Endpoint
    traffic: TcpInfo | None
    is_here: bool = True


def decode_event(payload: memoryview | bytes, moment: float, *, is_here: bool = True) -> Destroyed | None:
    """Read one ``inet_diag_msg`` of the groups; None if the socket was not connected to itself.

    Args:
        payload: the message.
        moment: seconds since the epoch.
        is_here: whether it came from the listener's own namespace.

    Raises:
        ValueError: it is too short, or has an unknown family or state.
    """
    found = decode(payload)
    if not found.endpoints.is_self or not found.endpoints.remote.port:
        return None
    data = decode_attribute(payload, INET_DIAG_INFO)
    traffic = None
    with suppress(ValueError):
        traffic = tcp_info.decode(data) if data is not None else None
    return Destroyed(moment, found.family, found.endpoints.local, traffic, is_here)


class DestroyEvents:
    """The self-connects that end in the calling thread's network namespace, from now on.

    With CAP_NET_BROADCAST it also has those of every namespace that has an id here (ip-netns(8), "nsid"), which the
    namespaces of ``ip netns`` and of most containers have.

    Attributes:
        lost: how many times the kernel dropped events because they were not read in time; how many events those were
            is not known.
        descriptors: readable when there are events, for poll(2).

    Raises:
        OSError: the kernel has no such groups.
    """

    def __init__(self) -> None:
        self.lost = 0
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, flags, _NETLINK_SOCK_DIAG)
        try:
            attach_filter(self._socket, DESTROY_FILTER)
            self._socket.bind((0, 0))
            with suppress(OSError):  # EPERM without CAP_NET_BROADCAST
                self._socket.setsockopt(_SOL_NETLINK, _LISTEN_ALL_NSID, 1)
            for group in _GROUPS:
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except BaseException:
            self._socket.close()
            raise
        self.descriptors = (self._socket.fileno(),)

    def __enter__(self) -> DestroyEvents:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the groups."""
        self._socket.close()

    def read_events(self) -> list[Destroyed]:
        """Return the events since the last call, the oldest first."""
        events: list[Destroyed] = []
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_LARGEST, 64)
            except BlockingIOError:
                return events
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
                continue
            # Only messages of other namespaces have the id of theirs beside them.
            is_here = not any((level, kind) == (_SOL_NETLINK, _LISTEN_ALL_NSID) for level, kind, _ in ancillary)
            found = (decode_event(one.payload, time.time(), is_here=is_here) for one in messages(data))
            events += [event for event in found if event is not None]
