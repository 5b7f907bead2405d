"""Permissions are what the kernel allows, also to root of a user namespace in a network of its parent."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tailbite.host.see.permissions import Permissions, permissions_here

if TYPE_CHECKING:
    from collections.abc import Callable

ASK = """
from tailbite.host.see.permissions import permissions_here
from tailbite.kernel.sysctl import write_sysctl

print(permissions_here().destroys, permissions_here().sets)
try:
    write_sysctl("ip_local_reserved_ports", "40000")
except PermissionError:
    print(False)
else:
    print(True)
"""


@pytest.mark.usefixtures("network")
def test_root_in_a_namespace_of_its_own_may_do_both() -> None:
    assert permissions_here() == Permissions(destroys=True, sets=True)


@pytest.mark.peers
@pytest.mark.usefixtures("network")
def test_root_of_a_user_namespace_may_not_destroy_in_a_network_of_its_parent(peer: Callable[[str], str]) -> None:
    """A rootless container that shares the host's network has every capability, but not there."""
    peer("unshare")
    line = ("unshare", "--user", "--map-root-user", sys.executable, "-c", ASK)
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    destroys, sets, has_set = done.stdout.split()
    assert destroys == "False"
    assert sets == has_set
