"""The TCP sockets of a network namespace: sock_diag(7), NETLINK_SOCK_DIAG.

Every user may list the sockets of every user in the namespace; only destroying one needs CAP_NET_ADMIN.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.errors import NetlinkError
from tailbite.kernel.diag_filter import cuts, local_port_is, same_interval
from tailbite.kernel.inet_diag import (
    ALL_STATES,
    CONNECTION_STATES,
    INET_DIAG_INFO,
    TcpSocket,
    TcpState,
    decode,
    decode_attribute,
    encode_old_request,
    encode_request,
    self_connect_offsets,
)
from tailbite.kernel.netlink import NLM_F_ACK, Netlink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tailbite.core.address import FourTuple
    from tailbite.core.ports import PortRange
    from tailbite.kernel.tcp_info import TcpInfo

__all__ = ["ALL_STATES", "Listing", "SockDiag", "TcpSocket", "TcpState", "decode", "encode_request"]

NETLINK_SOCK_DIAG = 4
TCPDIAG_GETSOCK = 18
SOCK_DIAG_BY_FAMILY = 20
SOCK_DESTROY = 21

_ATTEMPTS = 4
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_REFUSALS = frozenset({errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP})


@dataclass(frozen=True, slots=True)
class Listing:
    """The result of one dump.

    Attributes:
        sockets: the sockets that matched.
        complete: False if the kernel marked every one of several dumps as interrupted by a change, so that one may
            be missing.
    """

    sockets: tuple[TcpSocket, ...]
    complete: bool


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
        families: Iterable[int] = _FAMILIES,
        *,
        program: bytes = b"",
    ) -> Iterator[TcpSocket]:
        """Yield the sockets in these states as they arrive; :meth:`listing` repeats a dump that went wrong.

        Args:
            states: which states.
            families: AF_INET, AF_INET6 or both.
            program: a filter (:mod:`tailbite.kernel.diag_filter`).

        Raises:
            NetlinkError: the kernel refused or lost part of the answer (ENOBUFS).
        """
        states = frozenset(states)
        for family in families:
            request = encode_request(family, states, program=program)
            for message in self._netlink.dump(SOCK_DIAG_BY_FAMILY, request, "listing TCP sockets"):
                yield decode(message.payload)

    def payloads(self, states: Iterable[TcpState]) -> Iterator[memoryview]:
        """Yield the sockets in these states undecoded, each a ``struct inet_diag_msg``, for a count of very many.

        Raises:
            NetlinkError: the kernel refused or lost part of the answer (ENOBUFS).
        """
        wanted = frozenset(states)
        for family in _FAMILIES:
            request = encode_request(family, wanted)
            for message in self._netlink.dump(SOCK_DIAG_BY_FAMILY, request, "counting TCP sockets"):
                yield message.payload

    def listing(self, states: Iterable[TcpState] = ALL_STATES, *, local_port: int | None = None) -> Listing:
        """List sockets, all or those on one local port; a dump that was interrupted or overrun is repeated.

        Raises:
            NetlinkError: the kernel refused, or lost part of the answer time and again (ENOBUFS).
        """
        program = b"" if local_port is None else local_port_is(local_port)
        wanted = frozenset(states)

        def both() -> Iterator[TcpSocket]:
            request = encode_old_request(wanted, program)
            for message in self._netlink.dump(TCPDIAG_GETSOCK, request, "listing TCP sockets"):
                yield decode(message.payload)

        return self._first_accepted(both, lambda: self.dump(wanted, program=program))

    def self_connects(self, ephemeral: PortRange | None = None) -> Listing:
        """List every self-connected socket, whatever its port, family and state.

        The kernel drops nearly all others (:mod:`tailbite.kernel.diag_filter`), the rest is dropped undecoded, so
        memory does not grow with the number of sockets, and time grows little.

        Args:
            ephemeral: the range where most ports of the namespace lie; it affects the speed alone.

        Raises:
            NetlinkError: the kernel refused, or lost part of the answer time and again (ENOBUFS).
        """
        program = same_interval(cuts(ephemeral))

        def both() -> Iterator[TcpSocket]:
            yield from self._scan(TCPDIAG_GETSOCK, encode_old_request(CONNECTION_STATES, program))

        def each(program: bytes) -> Iterator[TcpSocket]:
            for family in _FAMILIES:
                yield from self._scan(SOCK_DIAG_BY_FAMILY, encode_request(family, CONNECTION_STATES, program=program))

        return self._first_accepted(both, lambda: each(program), lambda: each(b""))

    def _scan(self, kind: int, request: bytes) -> Iterator[TcpSocket]:
        for message in self._netlink.dump(kind, request, "looking for self-connected sockets", self_connect_offsets):
            found = decode(message.payload)
            if found.is_self_connected:
                yield found

    def _first_accepted(self, *ways: Callable[[], Iterable[TcpSocket]]) -> Listing:
        """Use the first way that this kernel has: one without the old request or without filters refuses at once."""
        for list_sockets in ways[:-1]:
            try:
                return self._settled(list_sockets)
            except NetlinkError as error:
                if error.errno not in _REFUSALS:
                    raise
        return self._settled(ways[-1])

    def _settled(self, list_sockets: Callable[[], Iterable[TcpSocket]]) -> Listing:
        attempt = 0
        while True:
            attempt += 1
            self._netlink.interrupted = False
            try:
                found = tuple(list_sockets())
            except NetlinkError as error:
                if error.errno != errno.ENOBUFS or attempt == _ATTEMPTS:
                    raise
                # The answer was larger than the socket's buffer; the rest in the buffer does not belong to any dump.
                self._netlink.close()
                self._netlink = Netlink(NETLINK_SOCK_DIAG)
                continue
            if not self._netlink.interrupted or attempt == _ATTEMPTS:
                return Listing(found, complete=not self._netlink.interrupted)

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

    def traffic(self, target: TcpSocket) -> TcpInfo | None:
        """Return what the kernel counted for exactly this socket; None if it is gone, or in TIME-WAIT.

        Raises:
            NetlinkError: the kernel refused.
        """
        request = encode_request(target.family, target=target, extension=INET_DIAG_INFO)
        try:
            answer = self._netlink.call(SOCK_DIAG_BY_FAMILY, request, f"looking at {target.endpoints}")
        except NetlinkError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return None
            raise
        from tailbite.kernel import tcp_info  # most inspections find nothing

        data = decode_attribute(answer.payload, INET_DIAG_INFO) if answer is not None else None
        return tcp_info.decode(data) if data is not None else None

    def destroy(self, target: TcpSocket) -> None:
        """End exactly this socket with SOCK_DESTROY (Linux 4.5): its owner gets ECONNABORTED, its port is free at
        once.

        Raises:
            NetlinkError: EPERM without CAP_NET_ADMIN, ENOENT if it is gone, EOPNOTSUPP if the kernel cannot.
        """
        request = encode_request(target.family, target=target)
        self._netlink.call(SOCK_DESTROY, request, f"destroying {target.endpoints}", flags=NLM_F_ACK)
