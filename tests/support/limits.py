"""An older or a stricter system, emulated: a seccomp filter that refuses what that system does not have.

``python tests/support/limits.py pidfd_getfd -- COMMAND...`` runs a command as Docker's default profile would. The
filter has no listener, so a guard's filter can follow it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from pathlib import Path

__all__ = ["without"]

# x86_64: number of the call, index of the argument that matters, its value, whether that is a mask, the answer.
_LIMITS: dict[str, tuple[int, int, int, bool, int]] = {
    "pidfd_getfd": (438, 2, 0, False, errno.EPERM),  # Docker's default profile without CAP_SYS_PTRACE
    "process_vm_readv": (310, 5, 0, False, errno.EPERM),  # the same on kernels before 4.8
    "IP_LOCAL_PORT_RANGE": (54, 2, 51, False, errno.ENOPROTOOPT),  # setsockopt, before Linux 6.3
    "IP_FREEBIND": (54, 2, 15, False, errno.EPERM),  # a profile that allows a few options only
    "SO_REUSEADDR": (54, 2, 2, False, errno.EPERM),  # a profile that allows hardly any
    "pidfd_open": (434, 1, 0, False, errno.ENOSYS),  # of a process, before Linux 5.3
    "PIDFD_THREAD": (434, 1, os.O_EXCL, True, errno.EINVAL),  # before Linux 6.9
    "KCMP_FILES": (312, 2, 2, False, errno.ENOSYS),  # a kernel that is built without kcmp
    "WAIT_KILLABLE_RECV": (317, 1, 1 << 5, True, errno.EINVAL),  # before Linux 5.19
    "SYNC_WAKE_UP": (16, 1, 0x40082104, False, errno.EINVAL),  # an ioctl, before Linux 6.6
    "NEW_LISTENER": (317, 1, 1 << 3, True, errno.EPERM),  # a profile that lets no filter listen
    "BPF": (321, 0, 5, False, errno.EPERM),  # bpf(BPF_PROG_LOAD): kernel lockdown, or a container's profile
    "SOCK_DIAG": (41, 2, 4, False, errno.EPROTONOSUPPORT),  # gVisor, or a kernel without INET_DIAG
    "AF_INET6": (41, 0, 10, False, errno.EAFNOSUPPORT),  # ipv6.disable=1
}


def without(*names: str) -> list[str]:
    """Return what to put before a command so that it runs on a system without ``names``."""
    return [sys.executable, __file__, *names, "--"]


def _program(names: list[str]) -> bytes:
    lines = []
    for name in names:
        number, index, value, is_mask, answer = _LIMITS[name]
        lines += [
            (0x20, 0, 0, 0),  # load the number
            (0x15, 0, 3, number),
            (0x20, 0, 0, 16 + 8 * index),  # load the lower half of the argument
            (0x45 if is_mask else 0x15, 0, 1, value),
            (0x06, 0, 0, 0x00050000 | answer),  # SECCOMP_RET_ERRNO
        ]
    lines.append((0x06, 0, 0, 0x7FFF0000))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _main() -> None:
    at = sys.argv.index("--")
    filters = ctypes.create_string_buffer(_program(sys.argv[1:at]))
    header = struct.pack("=H6xQ", len(filters) // 8, ctypes.addressof(filters))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, header, 0, 0) != 0:  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        if libc.prctl(22, 2, header, 0, 0) != 0:
            sys.exit(f"{Path(__file__).name}: {os.strerror(ctypes.get_errno())}")
    command = sys.argv[at + 1 :]
    os.execvp(command[0], command)


if __name__ == "__main__":
    _main()
