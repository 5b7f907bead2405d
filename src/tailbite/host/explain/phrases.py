"""Words for what was found: processes, times, ranges. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailbite.core.duration import spell_duration
from tailbite.host.see.records import NamespaceKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tailbite.host.see.port import PortSnapshot, PortUse
    from tailbite.host.see.records import Namespace

__all__ = ["after", "listed", "name_holder", "netns_argument", "process_names", "range_words", "span"]


def after(use: PortUse) -> str:
    """Say how long a TIME-WAIT lasts."""
    return f"{max(1, round(use.socket.expires_ms / 1000))} s"


def span(seconds: float) -> str:
    """Write a span of time; very short ones are not worth a figure."""
    return "less than a second" if seconds < 1 else spell_duration(seconds)


def name_holder(use: PortUse) -> str:
    """Name who holds a socket, as the beginning of a sentence."""
    if use.owners:
        return process_names([use])
    return (
        f"A process of uid {use.socket.uid}" if use.socket.inode else "The kernel, for a program that has closed it,"
    )


def process_names(uses: Iterable[PortUse]) -> str:
    """Name the processes that hold sockets."""
    names = list(dict.fromkeys(str(owner) for use in uses for owner in use.owners))
    return listed(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "somebody"


def listed(parts: Iterable[str]) -> str:
    """Join as people do: ``a, b and c``."""
    *most, last = [*dict.fromkeys(parts)] or [""]
    return f"{', '.join(most)} and {last}" if most else last


def netns_argument(namespace: Namespace) -> str:
    """Return what to give to ``--netns`` for this namespace."""
    return str(namespace.pids[0]) if namespace.kind is NamespaceKind.PROCESS and namespace.pids else namespace.name


def range_words(look: PortSnapshot) -> str:
    """Say how the port lies to the ephemeral range."""
    if look.ephemeral is None:
        return "the ephemeral range here is not known"
    if look.port not in look.ephemeral:
        return f"{look.port} is outside it now ({look.ephemeral})"
    if look.reserved is not None and look.port in look.reserved:
        return f"{look.port} lies in it ({look.ephemeral}), but is reserved (ip_local_reserved_ports)"
    return f"{look.port} lies in it ({look.ephemeral}) and is not reserved"
