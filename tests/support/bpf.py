"""Two ways to run a classic BPF program over bytes: an interpreter of our own, and the kernel's."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tailbite.guards.host.bpf_match import MatchInstruction

SO_ATTACH_FILTER = 26


def interpret(program: Sequence[MatchInstruction], packet: bytes) -> int:
    """Run the program as Documentation/networking/filter.rst tells; a load past the end ends it with 0."""
    a = x = 0
    memory = [0] * 16
    counter = 0
    while True:
        step = program[counter]
        counter += 1
        k = step.operand
        try:
            match step.code:
                case 0x30:
                    (a,) = struct.unpack_from("!B", packet, k)
                case 0x28:
                    (a,) = struct.unpack_from("!H", packet, k)
                case 0x20:
                    (a,) = struct.unpack_from("!I", packet, k)
                case 0x48:
                    (a,) = struct.unpack_from("!H", packet, x + k)
                case 0xB1:
                    x = 4 * (packet[k] & 0xF)
                case 0x61:
                    x = memory[k]
                case 0x02:
                    memory[k] = a
                case 0x07:
                    x = a
                case 0x15:
                    counter += step.if_true if a == k else step.if_false
                case 0x1D:
                    counter += step.if_true if a == x else step.if_false
                case 0x06:
                    return k
                case other:
                    raise AssertionError(f"unknown instruction {other:#x}")
        except (struct.error, IndexError):
            return 0


class KernelFilter:
    """The program attached to a Unix datagram socket: the kernel runs it over the datagram's bytes."""

    def __init__(self, sender: socket.socket, receiver: socket.socket) -> None:
        self._sender, self._receiver = sender, receiver

    def matches(self, packet: bytes) -> bool:
        self._sender.send(packet)
        try:
            self._receiver.recv(65536)
        except BlockingIOError:
            return False
        return True


@contextlib.contextmanager
def in_kernel(program: Sequence[MatchInstruction]) -> Iterator[KernelFilter]:
    """Attach the program (socket(7), SO_ATTACH_FILTER); the kernel checks it first."""
    code = b"".join(struct.pack("=HBBI", s.code, s.if_true, s.if_false, s.operand) for s in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        receiver.setblocking(False)
        receiver.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer))
        )
        yield KernelFilter(sender, receiver)
