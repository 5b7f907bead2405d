"""The reason that is given for something that this process may not see."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from conftest import find_peer
from support.users import python_as_nobody
from tailbite.kernel.capabilities import is_in_user_namespace

SAY = "from tailbite.host.see.records import not_permitted; print(not_permitted('destroy it'))"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up capabilities")


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_another_user_is_told_to_be_root() -> None:
    assert output_of(*python_as_nobody("-c", SAY)) == "not permitted: run as root to destroy it"


def test_root_in_a_container_is_told_which_capabilities_are_missing() -> None:
    without = (find_peer("setpriv"), "--bounding-set=-net_admin,-sys_ptrace", "--inh-caps=-all")
    assert output_of(*without, sys.executable, "-c", SAY) == (
        "permission denied even as root: this process lacks CAP_SYS_PTRACE and CAP_NET_ADMIN"
    )


def test_root_of_a_user_namespace_is_told_so() -> None:
    apart = (find_peer("unshare"), "--user", "--map-root-user")
    assert output_of(*apart, sys.executable, "-c", SAY) == (
        "permission denied: root of a user namespace (a rootless container) may not destroy it, root of the host may"
    )


@pytest.mark.skipif(is_in_user_namespace(), reason="root of the machine has every capability, another does not")
def test_root_with_every_capability_is_told_of_none() -> None:
    answer = output_of(sys.executable, "-c", SAY)
    assert "CAP_" not in answer
    assert answer.startswith("permission denied even as root, with every capability that is used for it")
