"""A trial of the rule in a network namespace of its own, where it disturbs nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailbite.errors import FirewallError
from tailbite.guards.host.firewall import apply_commands, find_firewall, install_commands, read_state
from tailbite.kernel import namespace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tailbite.guards.host.bpf_match import IpVersion

__all__ = ["can_install"]


def can_install(variant: str | None, versions: Iterable[IpVersion]) -> bool | None:
    """Tell whether the rule can be installed on this kernel; None if this user may not try it.

    Args:
        variant: "nft" or "legacy"; None for what ``iptables`` is.
        versions: the IP versions that need the rule.
    """
    try:
        with namespace.fresh_network():
            changes = []
            for version in versions:
                firewall = find_firewall(version, variant)
                state = read_state(firewall)
                changes.append((firewall, state, install_commands(state, firewall)))
            apply_commands(changes)
    except FirewallError:
        return False
    except OSError:
        return None
    return True
