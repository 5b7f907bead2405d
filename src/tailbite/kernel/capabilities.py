"""The capabilities of this process (capabilities(7))."""
# ruff: noqa: PTH123 - pathlib takes 4 ms to load

from __future__ import annotations

import os
from typing import Final

__all__ = [
    "CAP_BPF",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_PERFMON",
    "CAP_SYS_ADMIN",
    "CAP_SYS_PTRACE",
    "has_capability",
    "is_in_user_namespace",
]

# include/uapi/linux/capability.h
CAP_NET_BIND_SERVICE: Final = 10
CAP_NET_ADMIN: Final = 12
CAP_SYS_PTRACE: Final = 19
CAP_SYS_ADMIN: Final = 21
CAP_PERFMON: Final = 38
"""Linux 5.8; before that its rights are part of CAP_SYS_ADMIN."""
CAP_BPF: Final = 39
"""Linux 5.8; before that its rights are part of CAP_SYS_ADMIN."""
_INITIAL_USER_NAMESPACE: Final = 0xEFFFFFFD  # PROC_USER_INIT_INO, include/linux/proc_ns.h


def is_in_user_namespace() -> bool:
    """Tell whether capabilities are those of a user namespace (rootless containers), and not of the machine.

    Returns:
        False as well where /proc cannot be read.
    """
    try:
        return os.stat("/proc/self/ns/user").st_ino != _INITIAL_USER_NAMESPACE  # noqa: PTH116
    except OSError:
        return False


def has_capability(number: int) -> bool:
    """Tell whether a capability is in effect for this process, in its own user namespace.

    Args:
        number: one of the ``CAP_`` constants.

    Returns:
        False as well where /proc cannot be read.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
            effective = next((line.split()[1] for line in lines if line.startswith("CapEff:")), "0")
    except OSError:
        return False
    return bool(int(effective, 16) >> number & 1)
