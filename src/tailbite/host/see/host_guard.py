"""The host guard in the calling thread's network namespace: for which IP versions it refuses self-connects."""

from __future__ import annotations

import contextlib
import os

__all__ = ["refused_versions"]


def refused_versions() -> frozenset[int]:
    """Return the IP versions, 4 and 6, that have no self-connects; none where that cannot be asked.

    Only root may list the rules. The rule is looked for in both variants of iptables. A kernel without IPv6 has no
    such connections to refuse.
    """
    if os.geteuid() != 0:
        return frozenset()
    from tailbite.errors import FirewallError
    from tailbite.guards.host.firewall import VERSIONS, find_firewalls, present_versions, read_state

    present = present_versions()
    found = set(VERSIONS).difference(present)
    for version in present:
        with contextlib.suppress(FirewallError):
            if any(read_state(firewall).is_installed for firewall in find_firewalls(version)):
                found.add(version)
    return frozenset(found)
