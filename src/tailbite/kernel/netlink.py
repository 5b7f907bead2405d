"""Netlink framing (netlink(7), RFC 3549): messages to bytes, bytes to messages, and one socket to carry them."""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailbite.errors import NetlinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    Pick = Callable[[memoryview, int], tuple[Sequence[int], int]]

__all__ = [
    "NLM_F_ACK",
    "NLM_F_DUMP",
    "NLM_F_REQUEST",
    "Message",
    "Netlink",
    "attributes",
    "encode",
    "messages",
]

_NAMES = {4: "sock_diag, the kernel's list of sockets,"}

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300

NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: len, type, flags, seq, pid
_ERROR = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: len, type
_RECEIVE = 1 << 18  # inet_diag fills up to 32 KiB a message run; later kernels may send more at once


@dataclass(frozen=True, slots=True)
class Message:
    """One netlink message: its type, its flags and its payload."""

    type: int
    flags: int
    payload: memoryview


def encode(kind: int, flags: int, payload: bytes, sequence: int = 1) -> bytes:
    """Return one netlink message as the kernel reads it."""
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags, sequence, 0) + payload


def messages(data: bytes | memoryview) -> Iterator[Message]:
    """Split what one recv(2) returned into messages.

    Raises:
        ValueError: a length is invalid: shorter than a header, or past the end.
    """
    view = memoryview(data)
    offset, end = 0, len(view)
    while offset < end:
        if end - offset < _HEADER.size:
            raise ValueError(f"{end - offset} bytes are too few for a netlink header")
        length, kind, flags, _, _ = _HEADER.unpack_from(view, offset)
        if length < _HEADER.size or offset + length > end:
            raise ValueError(f"netlink message at byte {offset} claims {length} bytes of {end - offset}")
        yield Message(kind, flags, view[offset + _HEADER.size : offset + length])
        offset += (length + 3) & ~3


def _message_at(view: memoryview, offset: int) -> Message:
    length, kind, flags, _, _ = _HEADER.unpack_from(view, offset)
    return Message(kind, flags, view[offset + _HEADER.size : offset + length])


def attributes(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Split the tail of a message into its attributes: type and payload (rtnetlink(7)).

    Raises:
        ValueError: a length is invalid.
    """
    offset, end = 0, len(data)
    while end - offset >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > end:
            raise ValueError(f"netlink attribute at byte {offset} claims {length} bytes of {end - offset}")
        yield kind, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


class Netlink:
    """A netlink socket in the network namespace of the thread that makes it.

    Attributes:
        interrupted: becomes True when a dump is marked NLM_F_DUMP_INTR: something changed while it ran, so it may
            lack an entry. The caller resets it before a dump.

    Raises:
        OSError: the kernel has no such netlink family, or a filter of system calls forbids it; the text names it.
    """

    def __init__(self, family: int) -> None:
        if not sys.platform.startswith("linux"):
            raise OSError(errno.EAFNOSUPPORT, f"this is {sys.platform}, and sockets can be listed on Linux only")
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        except OSError as error:
            name = _NAMES.get(family, f"netlink family {family}")
            raise OSError(error.errno, f"{name} does not answer here ({error.strerror})") from None
        self.interrupted = False

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def dump(self, kind: int, payload: bytes, request: str, pick: Pick | None = None) -> Iterator[Message]:
        """Request a dump and yield its messages as they arrive; do not use the socket meanwhile.

        Args:
            kind: the message type.
            payload: what follows the header.
            request: the request in words, for the error.
            pick: selects among very many answers before they become messages. It gets the bytes that one recv(2)
                returned and the message type; it returns the offsets of the wanted messages and that of the first
                message that it did not read.

        Raises:
            NetlinkError: the kernel refused.
            ValueError: the kernel's answer is not valid netlink.
        """
        self._socket.send(encode(kind, NLM_F_REQUEST | NLM_F_DUMP, payload))
        buffer = bytearray(_RECEIVE)
        view = memoryview(buffer)
        while True:
            data = view[: self._receive_into(buffer, request)]
            chosen, rest = pick(data, kind) if pick else ((), 0)
            for message in itertools.chain((_message_at(data, offset) for offset in chosen), messages(data[rest:])):
                if message.flags & NLM_F_DUMP_INTR:
                    self.interrupted = True
                if message.type == NLMSG_DONE:
                    self._check(message, request)
                    return
                if message.type == NLMSG_ERROR:
                    self._check(message, request)
                elif message.type != NLMSG_NOOP:
                    yield message

    def call(self, kind: int, payload: bytes, request: str, *, flags: int = 0) -> Message | None:
        """Send one request and return the one answer, or None for an acknowledgement.

        Raises:
            NetlinkError: the kernel refused.
            ValueError: the kernel's answer is not valid netlink.
        """
        self._socket.send(encode(kind, NLM_F_REQUEST | flags, payload))
        buffer = bytearray(_RECEIVE)
        size = self._receive_into(buffer, request)
        for message in messages(memoryview(buffer)[:size]):
            if message.type == NLMSG_ERROR:
                self._check(message, request)
                return None
            return message
        raise ValueError(f"{request}: the kernel's answer is empty")

    def _receive_into(self, buffer: bytearray, request: str) -> int:
        try:
            return self._socket.recv_into(buffer)
        except OSError as error:  # ENOBUFS: the answer was larger than the socket's buffer
            raise NetlinkError(error.errno or errno.EIO, request) from error

    @staticmethod
    def _check(message: Message, request: str) -> None:
        number = 0
        with contextlib.suppress(struct.error):
            (number,) = _ERROR.unpack_from(message.payload)
        if number:
            raise NetlinkError(-number, request)
