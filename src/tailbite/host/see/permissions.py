"""Permissions of this process in its own network namespace: root in a container often lacks those of a remedy."""
# ruff: noqa: PTH123

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass

from tailbite.kernel.capabilities import CAP_NET_ADMIN, has_capability

__all__ = ["Permissions", "permissions_here"]

_NS_GET_USERNS = 0xB701  # include/uapi/linux/nsfs.h
_SETTING = "/proc/sys/net/ipv4/ip_local_reserved_ports"


@dataclass(frozen=True, slots=True)
class Permissions:
    """The remedies that this process may apply; all, for an ordinary user, who reads "needs root" beside them.

    Attributes:
        destroys: it may destroy sockets: CAP_NET_ADMIN in the user namespace that the network namespace belongs to.
        sets: it may write the port settings: the same, and /proc/sys is not mounted read-only.
    """

    destroys: bool = True
    sets: bool = True


def permissions_here() -> Permissions:
    """Return the permissions of this process. Changes nothing."""
    if os.geteuid() != 0:
        return Permissions()
    return Permissions(
        has_capability(CAP_NET_ADMIN) and _may_own_namespace(), os.access(_SETTING, os.W_OK, effective_ids=True)
    )


def _may_own_namespace() -> bool:
    """Tell whether this process is in the user namespace that owns the network namespace, or above (ioctl_ns(2))."""
    try:
        with open("/proc/self/ns/net", "rb") as namespace:
            os.close(fcntl.ioctl(namespace, _NS_GET_USERNS))
    except PermissionError:
        return False  # it belongs to the host, as with a rootless container that shares the host's network
    except OSError:
        return True  # not known (Linux before 4.9)
    return True
