"""Resources that two processes or threads have in common: kcmp(2)."""

from __future__ import annotations

from typing import Final

from tailbite.kernel.libc import architecture, quick_libc

__all__ = ["shares_descriptors", "shares_memory"]

# The number of kcmp(2): arch/*/kernel/syscalls/syscall*.tbl, include/uapi/asm-generic/unistd.h.
_NUMBER: Final = {
    "x86_64": 312,
    "aarch64": 272,
    "riscv64": 272,
    "loongarch64": 272,
    "ppc64le": 354,
    "s390x": 343,
}
_VM, _FILES = 1, 2


def shares_memory(one: int, other: int) -> bool:
    """Tell whether two processes have their memory in common, as after vfork(2); True if the kernel does not say.

    Args:
        one: a pid or a thread's id.
        other: another one.
    """
    # 1 and 2 say which of two different objects comes first (kcmp(2)); -1 is a failure.
    return _compare(one, other, _VM) not in (1, 2)


def shares_descriptors(one: int, other: int) -> bool:
    """Tell whether two threads have one table of descriptors; False if the kernel does not say.

    Args:
        one: a pid or a thread's id.
        other: another one.
    """
    return one == other or _compare(one, other, _FILES) == 0


def _compare(one: int, other: int, kind: int) -> int:
    return int(quick_libc().syscall(_NUMBER.get(architecture(), -1), one, other, kind, 0, 0))
