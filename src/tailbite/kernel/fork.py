"""A child process that wait(2) does not report."""

from __future__ import annotations

import ctypes

from tailbite.kernel.libc import architecture, quick_error, quick_libc

__all__ = ["fork_unwaited"]

# The number of clone(2): arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h.
_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "loongarch64": 220}


def fork_unwaited() -> int:
    """Fork a child that wait(2) reports only with ``__WALL`` or ``__WCLONE``, as it has no exit signal (clone(2)).

    It is for process 1 of a pid namespace, which cannot leave a child to another process. Only a process with a
    single thread may call this, as no ``os.register_at_fork`` function is called.

    Returns:
        0 in the child, its pid in the parent.

    Raises:
        OSError: EAGAIN, the limit of processes is reached; ENOSYS, the number of the call is not known here.
    """
    number = _CLONE.get(architecture(), -1)
    # All arguments are 0, so their order, which differs between machines, does not matter.
    pid = int(quick_libc().syscall(number, *[ctypes.c_ulong(0)] * 5))
    if pid < 0:
        raise quick_error("clone")
    return pid
