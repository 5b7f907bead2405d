"""Classic BPF programs on sockets (socket(7), SO_ATTACH_FILTER; Documentation/networking/filter.rst)."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["attach_filter"]

_SO_ATTACH_FILTER: Final = 26  # include/uapi/asm-generic/socket.h


def attach_filter(sock: socket.socket, program: Iterable[tuple[int, int, int, int]]) -> None:
    """Have the kernel run a classic BPF program on each packet or message before the socket receives it.

    Args:
        sock: the socket.
        program: instructions of the form code, jump if true, jump if false, operand (``struct sock_filter``). Its
            result is the number of bytes to keep, 0 to drop the packet.

    Raises:
        OSError: EINVAL, the kernel found the program invalid.
    """
    import ctypes

    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))  # the kernel copies it
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    )
