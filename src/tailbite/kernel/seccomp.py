"""seccomp user notification (seccomp_unotify(2)): a process asks another one before it calls connect(2).

The filter is bytes, made by a pure function; installing it, and receiving and answering what it reports, are one
call each. The answers are decided elsewhere.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from dataclasses import dataclass
from typing import Final

from tailbite.kernel.libc import last_error, libc, quick_errno, quick_error, quick_libc
from tailbite.kernel.namespace import CLONE_FILES, CLONE_NEWNET
from tailbite.kernel.sockopt import IP_LOCAL_PORT_RANGE

__all__ = [
    "ABIS",
    "ANSWER",
    "LET_RUN",
    "MESSAGE_LENGTH",
    "NOTIFICATION_SIZE",
    "NOT_WAITING",
    "RECEIVE",
    "SHORTEST_ADDRESS",
    "Abi",
    "Listener",
    "call_filter",
    "call_number",
    "install",
    "is_supported",
    "parse_call",
    "parse_message",
]

MSG_FASTOPEN: Final = 0x20000000
"""sendto(2), sendmsg(2) and sendmmsg(2) with this flag connect as well (Linux 3.7, include/linux/socket.h)."""

CLOSE_RANGE_UNSHARE: Final = 2
"""close_range(2) with this flag gives the calling thread a descriptor table of its own (Linux 5.9)."""

SHORTEST_ADDRESS: Final = 16
"""sizeof(struct sockaddr_in): anything shorter is not an Internet address."""


@dataclass(frozen=True, slots=True)
class Abi:
    """A machine's system call numbers.

    Attributes:
        arch: AUDIT_ARCH_*, include/uapi/linux/audit.h.
        connect: the number of connect(2).
        sendto: the number of sendto(2).
        sendmsg: the number of sendmsg(2).
        sendmmsg: the number of sendmmsg(2).
        seccomp: the number of seccomp(2).
        setns: the number of setns(2).
        unshare: the number of unshare(2).
        setsockopt: the number of setsockopt(2).
        close_range: the number of close_range(2).
    """

    arch: int
    connect: int
    sendto: int
    sendmsg: int
    sendmmsg: int
    seccomp: int
    setns: int
    unshare: int
    setsockopt: int
    close_range: int = 436

    @property
    def connecting(self) -> tuple[int, ...]:
        """The numbers of the calls that can connect."""
        return self.connect, self.sendto, self.sendmsg, self.sendmmsg


ABIS: Final = {
    "x86_64": Abi(0xC000003E, 42, 44, 46, 307, 317, 308, 272, 54),
    "aarch64": Abi(0xC00000B7, 203, 206, 211, 269, 277, 268, 97, 208),
    "riscv64": Abi(0xC00000F3, 203, 206, 211, 269, 277, 268, 97, 208),
    "loongarch64": Abi(0xC0000102, 203, 206, 211, 269, 277, 268, 97, 208),
}
"""By :func:`~tailbite.kernel.libc.architecture`.

Source: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h.
"""

# struct seccomp_data, include/uapi/linux/seccomp.h; the arguments are 64 bits wide and little-endian here.
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16

# linux/bpf_common.h: BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_{JEQ,JGE,JSET}|BPF_K, BPF_RET|BPF_K
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000


def call_filter(abi: Abi, *, reports_port_ranges: bool = False) -> bytes:
    """Return the classic BPF program (``struct sock_filter[]``) that reports calls which may connect over TCP.

    These are connect(2) with an address at least as long as an IPv4 one, sendto(2) with MSG_FASTOPEN and such an
    address, and sendmsg(2) and sendmmsg(2) with MSG_FASTOPEN. A longer address is reported whatever its length, as
    the kernel takes up to 128 bytes (struct sockaddr_storage) for an IPv4 address as well. Also reported are the
    calls by which a thread moves to another network namespace or to a descriptor table of its own: setns(2),
    unshare(2) with CLONE_NEWNET or CLONE_FILES, and close_range(2) with CLOSE_RANGE_UNSHARE. Every other call is
    allowed, calls of another ABI included (32-bit programs on a 64-bit kernel). A filter sees register values, not
    memory, so it cannot test the port.

    Args:
        abi: the numbers of this machine.
        reports_port_ranges: report setsockopt(2) with IP_LOCAL_PORT_RANGE as well.
    """

    def argument(number: int) -> int:
        return _ARGUMENTS + 8 * number

    # (code, operand, label if true, label if false); None is the next line. A text alone is a label.
    lines: list[str | tuple[int, int, str | None, str | None]] = [
        (_LOAD, _ARCH, None, None),
        (_IF_EQUAL, abi.arch, None, "allow"),
        (_LOAD, _NUMBER, None, None),
        (_IF_EQUAL, abi.connect, "connect", None),
        (_IF_EQUAL, abi.sendto, "sendto", None),
        (_IF_EQUAL, abi.sendmsg, "sendmsg", None),
        (_IF_EQUAL, abi.sendmmsg, "sendmmsg", None),
        (_IF_EQUAL, abi.setns, "notify", None),
        *([(_IF_EQUAL, abi.setsockopt, "setsockopt", None)] if reports_port_ranges else []),
        (_IF_EQUAL, abi.close_range, "close_range", None),
        (_IF_EQUAL, abi.unshare, None, "allow"),
        (_LOAD, argument(0), None, None),
        (_IF_ANY_BIT, CLONE_NEWNET | CLONE_FILES, "notify", "allow"),
        "close_range",
        (_LOAD, argument(2), None, None),
        (_IF_ANY_BIT, CLOSE_RANGE_UNSHARE, "notify", "allow"),
        "setsockopt",
        (_LOAD, argument(1), None, None),
        (_IF_EQUAL, socket.IPPROTO_IP, None, "allow"),
        (_LOAD, argument(2), None, None),
        (_IF_EQUAL, IP_LOCAL_PORT_RANGE, "notify", "allow"),
        "sendto",
        (_LOAD, argument(3), None, None),
        (_IF_ANY_BIT, MSG_FASTOPEN, None, "allow"),
        (_LOAD, argument(5), None, None),
        (_IF_AT_LEAST, SHORTEST_ADDRESS, "notify", "allow"),
        "sendmsg",
        (_LOAD, argument(2), None, None),
        (_IF_ANY_BIT, MSG_FASTOPEN, "notify", "allow"),
        "sendmmsg",
        (_LOAD, argument(3), None, None),
        (_IF_ANY_BIT, MSG_FASTOPEN, "notify", "allow"),
        "connect",
        (_LOAD, argument(2), None, None),
        (_IF_AT_LEAST, SHORTEST_ADDRESS, "notify", "allow"),
        "notify",
        (_RETURN, _NOTIFY, None, None),
        "allow",
        (_RETURN, _ALLOW, None, None),
    ]
    return _assemble(lines)


def _assemble(lines: list[str | tuple[int, int, str | None, str | None]]) -> bytes:
    at: dict[str, int] = {}
    program: list[tuple[int, int, str | None, str | None]] = []
    for line in lines:
        if isinstance(line, str):
            at[line] = len(program)
        else:
            program.append(line)

    def jump(here: int, label: str | None) -> int:
        return 0 if label is None else at[label] - here - 1

    return b"".join(
        struct.pack("=HBBI", code, jump(here, true), jump(here, false), operand)
        for here, (code, operand, true, false) in enumerate(program)
    )


# struct seccomp_notif: id, pid, flags, then struct seccomp_data: nr, arch, instruction pointer, args[6]
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_CALL = struct.Struct("=8xI4xi12xQQQ8xQQ")
_CALL_NUMBER = struct.Struct("=16xi")
_RESPONSE = struct.Struct("=QqiI")  # struct seccomp_notif_resp: id, value, error, flags
NOTIFICATION_SIZE: Final = _NOTIFICATION.size


def call_number(notification: bytes | memoryview) -> int:
    """Return the number of the system call that a ``struct seccomp_notif`` reports."""
    number: int = _CALL_NUMBER.unpack_from(notification)[0]
    return number


def parse_call(notification: bytes | memoryview, abi: Abi) -> tuple[int, int, int, int]:
    """Read a ``struct seccomp_notif``; a plain tuple, because one is made for every connect of a program.

    Returns:
        The thread that calls, in the pid namespace of the process that received this (0 if it is not visible there);
        its socket, a number of the thread's descriptor table; where in its memory the sockaddr is, or for sendmsg(2)
        and sendmmsg(2) the first message; and how long it says the sockaddr is, which :func:`parse_message` tells for
        a message.

    Raises:
        struct.error: it is too short.
    """
    tid, number, descriptor, one, two, four, five = _CALL.unpack_from(notification)
    # The kernel reads a descriptor and a length as an int, the lower half of the register; the upper half may hold
    # anything.
    if number == abi.sendto:
        return tid, descriptor & 0xFFFFFFFF, four, five & 0xFFFFFFFF
    return tid, descriptor & 0xFFFFFFFF, one, two & 0xFFFFFFFF


MESSAGE_LENGTH: Final = 12
_MESSAGE = struct.Struct("=QI")  # struct msghdr on a 64-bit machine: msg_name, msg_namelen


def parse_message(message: bytes | memoryview) -> tuple[int, int]:
    """Read the first ``MESSAGE_LENGTH`` bytes of a ``struct msghdr``: where its sockaddr is, and how long."""
    address, length = _MESSAGE.unpack_from(message)
    return address, length


_SECCOMP_SET_MODE_FILTER, _SECCOMP_GET_ACTION_AVAIL, _SECCOMP_GET_NOTIF_SIZES = 1, 2, 3
_NEW_LISTENER, _SPEC_ALLOW, _WAIT_KILLABLE = 1 << 3, 1 << 2, 1 << 5
_PR_SET_NO_NEW_PRIVS = 38


def is_supported(abi: Abi) -> bool:
    """Tell whether this kernel reports calls (Linux 5.0) in records of the size known here."""
    sizes = ctypes.create_string_buffer(6)  # struct seccomp_notif_sizes: notif, response, data
    if libc().syscall(abi.seccomp, _SECCOMP_GET_NOTIF_SIZES, 0, sizes) != 0:
        return False
    return struct.unpack("=3H", sizes.raw)[:2] == (_NOTIFICATION.size, _RESPONSE.size)


def install(abi: Abi, program: bytes) -> tuple[int, bool]:
    """Put the calling thread, and everything it starts, under ``program``. This cannot be undone.

    With CAP_SYS_ADMIN it works as it is. Without, the kernel wants no_new_privs (prctl(2)), and from then on
    set-user-ID programs such as sudo gain nothing.

    Returns:
        The descriptor calls are received from, and whether no_new_privs had to be set.

    Raises:
        OSError: EBUSY, a listener exists already; EINVAL or ENOSYS, the kernel has none; EPERM, forbidden here.
    """
    filters = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(filters))  # struct sock_fprog
    no_new_privs = False
    flags = _NEW_LISTENER | _SPEC_ALLOW | _WAIT_KILLABLE
    while True:
        listener = libc().syscall(abi.seccomp, _SECCOMP_SET_MODE_FILTER, flags, header)
        if listener >= 0:
            return listener, no_new_privs
        error = last_error("seccomp")
        if error.errno == errno.EACCES and not no_new_privs:
            if libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
                raise last_error("prctl(PR_SET_NO_NEW_PRIVS)")
            no_new_privs = True
        elif error.errno == errno.EINVAL and flags & _WAIT_KILLABLE:
            flags &= ~_WAIT_KILLABLE  # Linux 5.19
        else:
            raise error


# _IOC(direction, '!', number, size), include/uapi/linux/seccomp.h
_RECV = 3 << 30 | _NOTIFICATION.size << 16 | 0x21 << 8 | 0
_SEND = 3 << 30 | _RESPONSE.size << 16 | 0x21 << 8 | 1
_ID_VALID = 1 << 30 | 8 << 16 | 0x21 << 8 | 2
_SET_FLAGS = 1 << 30 | 8 << 16 | 0x21 << 8 | 4
RECEIVE, ANSWER = _RECV, _SEND
"""The requests for ioctl(2) that receive a call into a ``struct seccomp_notif``, and answer it."""

_SYNC_WAKE_UP = 1
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE, Linux 5.5
NOT_WAITING = (errno.ENOENT, errno.EINPROGRESS)
"""The errors of an answer whose caller no longer waits for it, or has it already."""

_ZEROS = bytes(_NOTIFICATION.size)
LET_RUN = _RESPONSE.pack(0, 0, 0, _CONTINUE)
"""A ``struct seccomp_notif_resp`` that lets a call run unchanged; its first 8 bytes are for the call's id."""


class Listener:
    """The end of a filter where its calls arrive, one after the other.

    fcntl.ioctl would copy through a buffer of its own, and a call received into that is lost when the process is
    killed before the copy. Here the kernel writes straight to where the caller says.

    Args:
        descriptor: the listener that :func:`install` returned.
        memory: space for one ``struct seccomp_notif``; it may be shared with other processes.

    Attributes:
        descriptor: the same.
        call: the current call, a ``struct seccomp_notif``; all zeros before the first one.
    """

    def __init__(self, descriptor: int, memory: memoryview) -> None:
        self.descriptor = descriptor
        self.call = memory
        self._call_id = self.call[:8].cast("Q")
        self._room = ctypes.byref((ctypes.c_char * NOTIFICATION_SIZE).from_buffer(memory))
        response = ctypes.create_string_buffer(LET_RUN, _RESPONSE.size)
        self._response_id = memoryview(response).cast("B")[:8].cast("Q")
        self._response = ctypes.byref(response)
        self._ioctl = quick_libc().ioctl
        self._receive, self._send = ctypes.c_ulong(_RECV), ctypes.c_ulong(_SEND)

    @property
    def call_id(self) -> int:
        """The kernel's id of the current call; 0 before the first one."""
        return self._call_id[0]

    def wake_synchronously(self) -> bool:
        """Have both sides wake each other on the same CPU (Linux 6.6): +10 us per call instead of +90 us."""
        flags = ctypes.c_ulong(_SYNC_WAKE_UP)
        return bool(self._ioctl(self.descriptor, ctypes.c_ulong(_SET_FLAGS), flags) == 0)

    def receive(self) -> bool:
        """Wait for a call, and have the kernel write it.

        Returns:
            False if no call arrived after all: the caller died, or a signal interrupted its call.

        Raises:
            OSError: the listener no longer works.
        """
        self.call[:] = _ZEROS  # as the kernel demands
        if self._ioctl(self.descriptor, self._receive, self._room) == 0:
            return True
        if quick_errno() in (errno.ENOENT, errno.EINTR):
            return False
        raise quick_error("ioctl(SECCOMP_IOCTL_NOTIF_RECV)")

    def receive_or_raise(self) -> None:
        """Wait for a call as :meth:`receive` does.

        Raises:
            InterruptedError: no call arrived after all.
            OSError: the listener no longer works.
        """
        if not self.receive():
            raise InterruptedError(errno.EINTR, "no call arrived")

    def is_waiting(self) -> bool:
        """Tell whether the caller still waits; if so, everything read from its process until now was its own."""
        call_id = ctypes.c_uint64(self.call_id)
        return bool(self._ioctl(self.descriptor, ctypes.c_ulong(_ID_VALID), ctypes.byref(call_id)) == 0)

    def fail(self, number: int) -> bool:
        """End the current call without running it: it fails with the errno ``number``.

        Returns:
            False if the caller no longer waits for the answer.
        """
        response = ctypes.create_string_buffer(_RESPONSE.pack(self.call_id, 0, -number, 0), _RESPONSE.size)
        return bool(self._ioctl(self.descriptor, self._send, ctypes.byref(response)) == 0)

    def answer(self) -> bool:
        """Let the current call run unchanged.

        Returns:
            False if the caller no longer waits for the answer.

        Raises:
            OSError: the listener no longer works.
        """
        self._response_id[0] = self._call_id[0]
        if self._ioctl(self.descriptor, self._send, self._response) == 0:
            return True
        if quick_errno() in NOT_WAITING:
            return False
        raise quick_error("ioctl(SECCOMP_IOCTL_NOTIF_SEND)")
