"""The messages of inet_diag (sock_diag(7), linux/inet_diag.h): requests to bytes, bytes to sockets. Pure."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from tailbite.core.address import Endpoint, FourTuple, canonical_host
from tailbite.kernel.netlink import attributes

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ALL_STATES",
    "CONNECTION_STATES",
    "INET_DIAG_INFO",
    "TcpSocket",
    "TcpState",
    "decode",
    "decode_attribute",
    "encode_old_request",
    "encode_request",
    "self_connect_offsets",
]

INET_DIAG_INFO = 2
INET_DIAG_SKV6ONLY = 11
INET_DIAG_REQ_BYTECODE = 1

_REQUEST = struct.Struct("=BBBxI")  # struct inet_diag_req_v2 before its id
_OLD_REQUEST = struct.Struct("=4x48xI4x")  # struct inet_diag_req: family, lengths, ext; id; states; dbs
_FILTER = struct.Struct("=HH")  # struct rtattr
_SOCKET_ID = struct.Struct("!HH16s16s")  # struct inet_diag_sockid up to idiag_if
_SOCKET_ID_TAIL = struct.Struct("=III")  # idiag_if, idiag_cookie[2]
_MESSAGE_TAIL = struct.Struct("=IIIII")  # expires, rqueue, wqueue, uid, inode
_ID_OFFSET = 4
_TAIL_OFFSET = _ID_OFFSET + 48
_MESSAGE_SIZE = _TAIL_OFFSET + _MESSAGE_TAIL.size
_NO_COOKIE = 0xFFFFFFFF

_HEADER_SIZE = 16
_GLANCE = struct.Struct("=IH14xHH")  # nlmsghdr's length and type; the ports as they lie there, big-endian
_ADDRESSES = _HEADER_SIZE + _ID_OFFSET + 4


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
CONNECTION_STATES = ALL_STATES - {TcpState.LISTEN, TcpState.CLOSE, TcpState.BOUND_INACTIVE}
"""The states in which a socket has a remote end, from SYN-SENT to TIME-WAIT."""


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """One TCP socket of a namespace.

    Attributes:
        family: AF_INET or AF_INET6, as the socket was made; a v4-mapped one is AF_INET6 with IPv4 endpoints.
        state: its TCP state.
        endpoints: its local and its remote end; for a listener the remote port is 0.
        uid: the user that owns it.
        inode: the number /proc/PID/fd shows; 0 when no process has it (TIME-WAIT, or not accepted yet).
        receive_queue: bytes that came and were not read; for a listener, connections waiting for accept(2).
        send_queue: bytes sent and not acknowledged; for a listener, the limit of the accept queue.
        expires_ms: milliseconds until the timer that runs ends, e.g. what is left of TIME-WAIT; 0 if none runs.
        cookie: identifies exactly this socket, so that no other socket is destroyed in its place.
        interface: the index of the device it is bound to (SO_BINDTODEVICE); 0 for any.
        v6_only: IPV6_V6ONLY, for listening and bound AF_INET6 sockets; None where it means nothing.
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
    interface: int = 0
    v6_only: bool | None = None

    @property
    def is_self_connected(self) -> bool:
        """True if this socket is connected to itself, is about to be, or was until it was closed (TIME-WAIT)."""
        # A self-connect that was destroyed while its owner had bound the port is listed with its old destination.
        return self.state in CONNECTION_STATES and self.endpoints.remote.port != 0 and self.endpoints.is_self


def encode_request(
    family: int,
    states: Iterable[TcpState] = ALL_STATES,
    *,
    target: TcpSocket | None = None,
    endpoints: FourTuple | None = None,
    extension: int = 0,
    program: bytes = b"",
) -> bytes:
    """Return an ``inet_diag_req_v2``: for a dump, or for one socket.

    Args:
        family: AF_INET or AF_INET6.
        states: which states a dump lists.
        target: ask for exactly this socket, by its cookie.
        endpoints: ask for the socket with these endpoints.
        extension: the number of an INET_DIAG_ attribute to ask for as well; 0 for none.
        program: a filter for a dump (:mod:`tailbite.kernel.diag_filter`).

    Raises:
        ValueError: an endpoint's host is of another family.
    """
    mask = sum(1 << state for state in set(states))
    source = destination = b""
    ports = (0, 0)
    interface = 0
    cookie = (_NO_COOKIE, _NO_COOKIE)
    if target is not None:
        endpoints, cookie = target.endpoints, target.cookie
    if endpoints is not None:
        source, destination = (_pack_host(family, end.host) for end in (endpoints.local, endpoints.remote))
        ports = (endpoints.local.port, endpoints.remote.port)
        # The kernel's lookup compares the device too: without it a socket bound to one is not found.
        interface = target.interface if target is not None else endpoints.local.scope
    return (
        _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << extension - 1 if extension else 0, mask)
        + _SOCKET_ID.pack(*ports, source, destination)
        + _SOCKET_ID_TAIL.pack(interface, *cookie)
        + _filter(program)
    )


def encode_old_request(states: Iterable[TcpState], program: bytes = b"") -> bytes:
    """Return an ``inet_diag_req``, for a TCPDIAG_GETSOCK dump.

    The request of Linux 2.6 does not select a family: the kernel walks its table once and lists IPv4 and IPv6,
    where the newer request needs a walk for each. That is half the time.
    """
    return _OLD_REQUEST.pack(sum(1 << state for state in set(states))) + _filter(program)


def _filter(program: bytes) -> bytes:
    return _FILTER.pack(_FILTER.size + len(program), INET_DIAG_REQ_BYTECODE) + program if program else b""


def _pack_host(family: int, host: str) -> bytes:
    try:
        if family == socket.AF_INET6 and ":" not in host:
            host = f"::ffff:{host}"
        return socket.inet_pton(family, host)
    except OSError:
        raise ValueError(f"{host!r} is not an address of family {socket.AddressFamily(family).name}") from None


def decode(payload: memoryview | bytes) -> TcpSocket:
    """Read one ``inet_diag_msg``.

    Raises:
        ValueError: the message is too short, or has an unknown family or state.
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
        interface=interface,
        v6_only=_v6_only(payload) if family == socket.AF_INET6 else None,
    )


def decode_attribute(payload: memoryview | bytes, kind: int) -> memoryview | None:
    """Return the data of one attribute of an ``inet_diag_msg``, or None if the kernel did not send it."""
    found = (data for number, data in attributes(memoryview(payload)[_MESSAGE_SIZE:]) if number == kind)
    return next(found, None)


def _v6_only(payload: memoryview | bytes) -> bool | None:
    flag = decode_attribute(payload, INET_DIAG_SKV6ONLY)
    return bool(flag[0]) if flag else None


def self_connect_offsets(data: memoryview, kind: int) -> tuple[list[int], int]:
    """Find the self-connected sockets among the messages of one recv(2), decoding as little as possible.

    On a host with very many sockets this loop decides the duration of a scan.

    Args:
        data: messages back to back.
        kind: the message type of a socket.

    Returns:
        The offsets of their messages, and the offset of the first message of another type, or the end.

    Raises:
        ValueError: a length that cannot be.
    """
    found = []
    offset, end = 0, len(data)
    glance = _GLANCE.unpack_from
    # A message shorter than the glance is NLMSG_DONE or an error, of which other code reads the header alone.
    while end - offset >= _GLANCE.size:
        length, number, local, remote = glance(data, offset)
        if number != kind:
            break
        if length < _HEADER_SIZE + _MESSAGE_SIZE or offset + length > end:
            raise ValueError(f"netlink message at byte {offset} claims {length} bytes of {end - offset}")
        if local == remote:
            where = offset + _ADDRESSES
            # Both addresses are 16 bytes, the same way written: v4-mapped ones too. Only listeners have port 0.
            if local and data[where : where + 16] == data[where + 16 : where + 32]:
                found.append(offset)
        offset += (length + 3) & ~3
    return found, offset


def _endpoint(family: int, packed: bytes, port: int, interface: int) -> Endpoint:
    if family == socket.AF_INET:
        return Endpoint(socket.inet_ntop(family, packed[:4]), port)
    if family == socket.AF_INET6:
        # The interface of a socket bound to a device names the zone for link-local addresses only.
        scope = interface if packed[0] == 0xFE and packed[1] & 0xC0 == 0x80 else 0
        return Endpoint(canonical_host(socket.inet_ntop(family, packed)), port, scope)
    raise ValueError(f"{family} is neither AF_INET nor AF_INET6")
