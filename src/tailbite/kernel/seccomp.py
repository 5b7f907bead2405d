"""seccomp user notification (seccomp_unotify(2)): a process asks another one before it calls connect(2).

The filter is bytes, made by a pure function; installing it, and receiving and answering what it reports, are one
call each. What to answer is not decided here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ctypes import Array, c_char

__all__ = [
    "ABIS",
    "NOTIFICATION_SIZE",
    "Abi",
    "Call",
    "answer_continue",
    "call_filter",
    "install",
    "is_supported",
    "is_waiting",
    "parse_call",
    "receive",
    "wake_synchronously",
]

MSG_FASTOPEN: Final = 0x20000000
"""sendto(2) with this flag connects as well (Linux 3.7, include/linux/socket.h)."""

SHORTEST_ADDRESS: Final = 16
"""sizeof(struct sockaddr_in): whatever is shorter is no Internet address."""

UNIX_ADDRESS: Final = 110
"""sizeof(struct sockaddr_un): what most programs pass for a unix socket, so they need not be asked."""


@dataclass(frozen=True, slots=True)
class Abi:
    """A machine's system call numbers.

    Attributes:
        arch: AUDIT_ARCH_*, include/uapi/linux/audit.h.
        connect: the number of connect(2).
        sendto: the number of sendto(2).
        seccomp: the number of seccomp(2).
    """

    arch: int
    connect: int
    sendto: int
    seccomp: int


ABIS: Final = {
    "x86_64": Abi(0xC000003E, 42, 44, 317),
    "aarch64": Abi(0xC00000B7, 203, 206, 277),
    "riscv64": Abi(0xC00000F3, 203, 206, 277),
    "loongarch64": Abi(0xC0000102, 203, 206, 277),
}
"""By ``os.uname().machine``: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h."""

# struct seccomp_data, include/uapi/linux/seccomp.h; the arguments are 64 bits wide and little-endian here.
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16

# linux/bpf_common.h: BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_{JEQ,JGE,JSET}|BPF_K, BPF_RET|BPF_K
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000


def call_filter(abi: Abi) -> bytes:
    """Return the classic BPF program (``struct sock_filter[]``) that reports calls which may connect over TCP.

    connect(2) with an address at least as long as an IPv4 one and not of the size of a unix one, and sendto(2)
    with MSG_FASTOPEN and such an address. Everything else, calls of another ABI included (32-bit programs on a
    64-bit kernel), runs without being looked at: a filter can read registers only, so the port is not for it.
    """

    def argument(number: int) -> int:
        return _ARGUMENTS + 8 * number

    # (code, operand, label if true, label if false); a label is an index that `at` knows, None is the next line.
    lines: list[tuple[int, int, str | None, str | None]] = [
        (_LOAD, _ARCH, None, None),
        (_IF_EQUAL, abi.arch, None, "allow"),
        (_LOAD, _NUMBER, None, None),
        (_IF_EQUAL, abi.connect, "connect", None),
        (_IF_EQUAL, abi.sendto, None, "allow"),
        (_LOAD, argument(3), None, None),
        (_IF_ANY_BIT, MSG_FASTOPEN, None, "allow"),
        (_LOAD, argument(5), None, None),
        (_IF_AT_LEAST, SHORTEST_ADDRESS, "notify", "allow"),
        (_LOAD, argument(2), None, None),  # connect:
        (_IF_AT_LEAST, SHORTEST_ADDRESS, None, "allow"),
        (_IF_EQUAL, UNIX_ADDRESS, "allow", "notify"),
        (_RETURN, _NOTIFY, None, None),  # notify:
        (_RETURN, _ALLOW, None, None),  # allow:
    ]
    at = {"connect": 9, "notify": 12, "allow": 13}

    def jump(here: int, label: str | None) -> int:
        return 0 if label is None else at[label] - here - 1

    return b"".join(
        struct.pack("=HBBI", code, jump(here, true), jump(here, false), operand)
        for here, (code, operand, true, false) in enumerate(lines)
    )


class Call(NamedTuple):
    """A system call that waits for an answer; a tuple, because one is made for every connect of a program.

    Attributes:
        id: names this call to the kernel.
        tid: the thread, in the pid namespace of the process that received it; 0 if it is not visible there.
        number: which system call.
        descriptor: its socket, a number of the caller's descriptor table.
        address: where in the caller's memory the sockaddr is.
        length: how long the caller says it is.
    """

    id: int
    tid: int
    number: int
    descriptor: int
    address: int
    length: int


# struct seccomp_notif: id, pid, flags, then struct seccomp_data: nr, arch, instruction pointer, args[6]
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")  # struct seccomp_notif_resp: id, value, error, flags
_ID = struct.Struct("=Q")
NOTIFICATION_SIZE: Final = _NOTIFICATION.size


def parse_call(notification: bytes | memoryview, abi: Abi) -> Call:
    """Read a ``struct seccomp_notif``.

    Raises:
        struct.error: it is too short.
    """
    call_id, tid, _, number, _, _, socket, one, two, _, four, five = _NOTIFICATION.unpack_from(notification)
    address, length = (four, five) if number == abi.sendto else (one, two)
    # The kernel takes both as an int, so that is what counts; the upper half of the register is anything.
    return Call(call_id, tid, number, socket & 0xFFFFFFFF, address, length & 0xFFFFFFFF)


_SECCOMP_SET_MODE_FILTER, _SECCOMP_GET_ACTION_AVAIL, _SECCOMP_GET_NOTIF_SIZES = 1, 2, 3
_NEW_LISTENER, _SPEC_ALLOW, _WAIT_KILLABLE = 1 << 3, 1 << 2, 1 << 5
_PR_SET_NO_NEW_PRIVS = 38


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


def is_supported(abi: Abi) -> bool:
    """Tell whether this kernel reports calls (Linux 5.0) in records of the size known here."""
    sizes = ctypes.create_string_buffer(6)  # struct seccomp_notif_sizes: notif, response, data
    if _libc().syscall(abi.seccomp, _SECCOMP_GET_NOTIF_SIZES, 0, sizes) != 0:
        return False
    return struct.unpack("=3H", sizes.raw)[:2] == (_NOTIFICATION.size, _RESPONSE.size)


def install(abi: Abi, program: bytes) -> tuple[int, bool]:
    """Put the calling thread, and all it will start, under ``program``; there is no way back.

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
        listener = _libc().syscall(abi.seccomp, _SECCOMP_SET_MODE_FILTER, flags, header)
        if listener >= 0:
            return listener, no_new_privs
        error = _error("seccomp")
        if error.errno == errno.EACCES and not no_new_privs:
            if _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
                raise _error("prctl(PR_SET_NO_NEW_PRIVS)")
            no_new_privs = True
        elif error.errno == errno.EINVAL and flags & _WAIT_KILLABLE:
            flags &= ~_WAIT_KILLABLE  # Linux 5.19
        else:
            raise error


# _IOC(direction, '!', number, size), include/uapi/linux/seccomp.h
_RECV = 3 << 30 | _NOTIFICATION.size << 16 | 0x21 << 8 | 0
_SEND = 3 << 30 | _RESPONSE.size << 16 | 0x21 << 8 | 1
_ID_VALID = 1 << 30 | _ID.size << 16 | 0x21 << 8 | 2
_SET_FLAGS = 1 << 30 | 8 << 16 | 0x21 << 8 | 4
_SYNC_WAKE_UP = 1
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE, Linux 5.5


@cache
def _ioctl() -> ctypes._NamedFuncPointer:
    # fcntl.ioctl would copy through a buffer of its own, and a call received into that is lost when the process
    # is killed before the copy. Here the kernel writes straight to where the caller says.
    call = _libc().ioctl
    call.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
    return call


def wake_synchronously(listener: int) -> bool:
    """Have both sides wake each other on the same CPU (Linux 6.6): +10 us per call instead of +90 us."""
    return bool(_ioctl()(listener, _SET_FLAGS, _SYNC_WAKE_UP) == 0)


def receive(listener: int, room: Array[c_char]) -> bool:
    """Wait for a call and have the kernel write it into ``room``, which is zeroed before, as it demands.

    Returns:
        False if there was none after all: the caller died, or a signal took it back.

    Raises:
        OSError: the listener is of no use any more.
    """
    ctypes.memset(room, 0, NOTIFICATION_SIZE)
    if _ioctl()(listener, _RECV, room) == 0:
        return True
    if ctypes.get_errno() in (errno.ENOENT, errno.EINTR):
        return False
    raise _error("ioctl(SECCOMP_IOCTL_NOTIF_RECV)")


def is_waiting(listener: int, call_id: int) -> bool:
    """Tell whether the caller still waits: if so, what was read of it just now was really of it."""
    return bool(_ioctl()(listener, _ID_VALID, _ID.pack(call_id)) == 0)


def answer_continue(listener: int, call_id: int) -> bool:
    """Let the call run as if nobody had looked.

    Returns:
        False if nobody waits for that answer any more.

    Raises:
        OSError: the listener is of no use any more.
    """
    if _ioctl()(listener, _SEND, _RESPONSE.pack(call_id, 0, 0, _CONTINUE)) == 0:
        return True
    if ctypes.get_errno() in (errno.ENOENT, errno.EINPROGRESS):
        return False
    raise _error("ioctl(SECCOMP_IOCTL_NOTIF_SEND)")
