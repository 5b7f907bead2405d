"""TCP sockets as the kernel lists them: sock_diag(7), NETLINK_SOCK_DIAG, inet_diag.

Every user may ask, and sees every user's sockets of the namespace; only destroying one needs CAP_NET_ADMIN.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from tailbite.core.address import Endpoint, FourTuple, canonical_host
from tailbite.errors import NetlinkError
from tailbite.kernel.netlink import NLM_F_ACK, Netlink

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["ALL_STATES", "SockDiag", "TcpSocket", "TcpState", "decode", "encode_request"]

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
SOCK_DESTROY = 21

_REQUEST = struct.Struct("=BBBxI")  # struct inet_diag_req_v2 before its id
_SOCKET_ID = struct.Struct("!HH16s16s")  # struct inet_diag_sockid up to idiag_if
_SOCKET_ID_TAIL = struct.Struct("=III")  # idiag_if, idiag_cookie[2]
_MESSAGE_TAIL = struct.Struct("=IIIII")  # expires, rqueue, wqueue, uid, inode
_ID_OFFSET = 4
_TAIL_OFFSET = _ID_OFFSET + 48
_MESSAGE_SIZE = _TAIL_OFFSET + _MESSAGE_TAIL.size
_NO_COOKIE = 0xFFFFFFFF


class TcpState(IntEnum):
    """The states of include/net/tcp_states.h; all but the last two are RFC 9293's (section 3.3.2)."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12
    BOUND_INACTIVE = 13
    """Bound, neither listening nor connected; a bit to ask by since Linux 6.8. The answer says CLOSE."""

    @property
    def label(self) -> str:
        """The state as RFC 9293, ss and netstat spell it, with hyphens."""
        return {"SYN_RECV": "SYN-RECEIVED", "FIN_WAIT1": "FIN-WAIT-1", "FIN_WAIT2": "FIN-WAIT-2"}.get(
            self.name, self.name.replace("_", "-")
        )


ALL_STATES = frozenset(TcpState) - {TcpState.NEW_SYN_RECV}


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """One TCP socket of a namespace.

    Attributes:
        family: AF_INET or AF_INET6, as the socket was made; a v4-mapped one is AF_INET6 with IPv4 endpoints.
        state: its TCP state.
        endpoints: where it is and where it goes; for a listener the remote port is 0.
        uid: the user that owns it.
        inode: the number /proc/PID/fd shows; 0 when no process has it (TIME-WAIT, or not accepted yet).
        receive_queue: bytes that came and were not read; for a listener, connections waiting for accept(2).
        send_queue: bytes sent and not acknowledged; for a listener, the limit of the accept queue.
        expires_ms: milliseconds until the timer that runs ends, e.g. what is left of TIME-WAIT; 0 if none runs.
        cookie: names this very socket, so that nothing else is destroyed in its place.
    """

    family: int
    state: TcpState
    endpoints: FourTuple
    uid: int
    inode: int
    receive_queue: int
    send_queue: int
    expires_ms: int
    cookie: tuple[int, int]

    @property
    def is_self_connected(self) -> bool:
        """True if this socket is connected to itself."""
        return self.endpoints.remote.port != 0 and self.endpoints.is_self


def encode_request(
    family: int,
    states: Iterable[TcpState] = ALL_STATES,
    *,
    endpoints: FourTuple | None = None,
    cookie: tuple[int, int] = (_NO_COOKIE, _NO_COOKIE),
) -> bytes:
    """Return an ``inet_diag_req_v2``: for a dump, or for the one socket of ``endpoints``.

    Raises:
        ValueError: an endpoint's host is of another family.
    """
    mask = sum(1 << state for state in set(states))
    source = destination = b""
    ports = (0, 0)
    interface = 0
    if endpoints is not None:
        source, destination = (_pack_host(family, end.host) for end in (endpoints.local, endpoints.remote))
        ports = (endpoints.local.port, endpoints.remote.port)
        interface = endpoints.local.scope
    return (
        _REQUEST.pack(family, socket.IPPROTO_TCP, 0, mask)
        + _SOCKET_ID.pack(*ports, source, destination)
        + _SOCKET_ID_TAIL.pack(interface, *cookie)
    )


def _pack_host(family: int, host: str) -> bytes:
    try:
        if family == socket.AF_INET6 and ":" not in host:
            host = f"::ffff:{host}"
        return socket.inet_pton(family, host)
    except OSError:
        raise ValueError(f"{host!r} is no address of family {socket.AddressFamily(family).name}") from None


def decode(payload: memoryview | bytes) -> TcpSocket:
    """Read one ``inet_diag_msg``.

    Raises:
        ValueError: too short, or a family or state that is none.
    """
    if len(payload) < _MESSAGE_SIZE:
        raise ValueError(f"{len(payload)} bytes are too few for an inet_diag_msg of {_MESSAGE_SIZE}")
    family, state = payload[0], TcpState(payload[1])
    if state is TcpState.CLOSE:  # of all sockets in CLOSE only those with a port are listed
        state = TcpState.BOUND_INACTIVE
    local_port, remote_port, source, destination = _SOCKET_ID.unpack_from(payload, _ID_OFFSET)
    interface, *cookie = _SOCKET_ID_TAIL.unpack_from(payload, _ID_OFFSET + _SOCKET_ID.size)
    expires, receive_queue, send_queue, uid, inode = _MESSAGE_TAIL.unpack_from(payload, _TAIL_OFFSET)
    return TcpSocket(
        family=family,
        state=state,
        endpoints=FourTuple(
            _endpoint(family, source, local_port, interface),
            _endpoint(family, destination, remote_port, interface),
        ),
        uid=uid,
        inode=inode,
        receive_queue=receive_queue,
        send_queue=send_queue,
        expires_ms=expires,
        cookie=(cookie[0], cookie[1]),
    )


def _endpoint(family: int, packed: bytes, port: int, interface: int) -> Endpoint:
    if family == socket.AF_INET:
        return Endpoint(socket.inet_ntop(family, packed[:4]), port)
    if family == socket.AF_INET6:
        # The interface of a socket bound to a device names the zone for link-local addresses only.
        scope = interface if packed[0] == 0xFE and packed[1] & 0xC0 == 0x80 else 0
        return Endpoint(canonical_host(socket.inet_ntop(family, packed)), port, scope)
    raise ValueError(f"{family} is neither AF_INET nor AF_INET6")


class SockDiag:
    """The TCP sockets of the network namespace of the thread that makes this object. Use it as a context manager.

    Raises:
        OSError: the kernel has no sock_diag.
    """

    def __init__(self) -> None:
        self._netlink = Netlink(NETLINK_SOCK_DIAG)

    def __enter__(self) -> SockDiag:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def dump(
        self,
        states: Iterable[TcpState] = ALL_STATES,
        families: Iterable[int] = (socket.AF_INET, socket.AF_INET6),
    ) -> Iterator[TcpSocket]:
        """Yield the sockets in these states.

        Raises:
            NetlinkError: the kernel refused or lost part of the answer (ENOBUFS).
        """
        states = frozenset(states)
        for family in families:
            request = encode_request(family, states)
            for message in self._netlink.dump(SOCK_DIAG_BY_FAMILY, request, "listing TCP sockets"):
                yield decode(message.payload)

    def find(self, family: int, endpoints: FourTuple) -> TcpSocket | None:
        """Return the one socket with these endpoints, or None; the cost does not grow with their number.

        Raises:
            NetlinkError: the kernel refused.
        """
        try:
            answer = self._netlink.call(
                SOCK_DIAG_BY_FAMILY, encode_request(family, endpoints=endpoints), f"looking up {endpoints}"
            )
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return decode(answer.payload) if answer is not None else None

    def destroy(self, target: TcpSocket) -> None:
        """End this very socket with SOCK_DESTROY (Linux 4.5): its owner sees ECONNABORTED, its port is free at once.

        Raises:
            NetlinkError: EPERM without CAP_NET_ADMIN, ENOENT if it is gone, EOPNOTSUPP if the kernel cannot.
        """
        request = encode_request(target.family, endpoints=target.endpoints, cookie=target.cookie)
        self._netlink.call(SOCK_DESTROY, request, f"destroying {target.endpoints}", flags=NLM_F_ACK)
