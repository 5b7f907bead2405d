"""The isolation of the tests: no worker sees the machine's network, or the processes of anything but itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.abilities import has_ability
from support.guarded import wait_until
from support.isolation import worker_command
from tailbite.kernel import namespace


def test_this_process_has_a_network_namespace_of_its_own() -> None:
    interfaces = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces if not line.strip().startswith(("sit0", "tunl0"))] == [
        "lo"
    ]


@pytest.mark.usefixtures("network")
def test_a_test_with_its_own_network_shares_it_with_no_other_process() -> None:
    here = Path("/proc/thread-self/ns/net").stat().st_ino
    with namespace.fresh_network():
        assert Path("/proc/thread-self/ns/net").stat().st_ino != here


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process: -n 0")
def test_a_worker_sees_only_its_own_processes() -> None:
    if worker_command() is None:
        pytest.skip("PID namespaces are not allowed here")
    with subprocess.Popen(["sleep", "600"]) as own:
        try:
            seen = {int(path.name) for path in Path("/proc").glob("[0-9]*")}
            assert {os.getpid(), own.pid} <= seen
            assert os.getppid() == 1
        finally:
            own.kill()


def test_an_orphan_is_reaped() -> None:
    """The first process of the namespace adopts it; one that never waited would keep it as a zombie."""
    command = ["sh", "-c", "sleep 0 & echo $!"]
    orphan = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    wait_until(lambda: not Path(f"/proc/{orphan}").exists(), "the orphan is gone")


def test_an_unknown_ability_is_refused_with_the_list() -> None:
    with pytest.raises(LookupError, match="SOCK_DESTROY"):
        has_ability("SOCK_DESTORY")
