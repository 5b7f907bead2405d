"""Real servers in the trap: they start where somebody waits for them with tailbite, and not where a shell does."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

import tailbite
from conftest import find_peer
from support import servers
from support.servers import HOST
from support.trap import PORT, Trap
from tailbite import verify
from tailbite.readiness.status import Readiness, TargetStatus

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]


def command_of(name: str, at: Path, certificate: Path) -> tuple[list[str], verify.Verifier]:
    """Make a server for the trap's port."""
    if name == "postgres":
        return servers.postgres(find_peer, at, PORT), verify.postgres
    if name == "redis":
        return servers.redis(find_peer, at, PORT), verify.redis
    if name == "mariadb":
        return servers.mariadb(find_peer, at, PORT), verify.mysql
    if name == "sshd":
        return servers.sshd(find_peer, at, PORT), verify.ssh
    return servers.nginx(find_peer, at, PORT, 20031, 20032, certificate), verify.http("/")


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("name", ["postgres", "redis", "mariadb", "sshd", "nginx"])
def test_a_real_server_that_is_waited_for_starts_at_the_first_try(name: str, certificate: Path) -> None:
    seen: list[Readiness] = []
    with servers.folder() as at:
        command, verifier = command_of(name, at, certificate)
        trap = Trap().set()
        trap.control()
        while len(seen) < 6:
            with pytest.raises(tailbite.NotReadyError):
                tailbite.wait((HOST, PORT), verify=verifier, timeout=0.2, interval=0.001, on_attempt=seen.append)
        assert {readiness.status for readiness in seen} == {TargetStatus.REFUSED}
        with servers.run(command, None, at / "log") as process:
            tailbite.wait((HOST, PORT), verify=verifier, interval=0.01)
            assert process.poll() is None


@pytest.mark.usefixtures("network")
def test_a_real_postgres_cannot_start_where_the_usual_gate_waits_for_it() -> None:
    """The control: the same server, the same trap, and a shell that waits with /dev/tcp."""
    with servers.folder() as at:
        command = servers.postgres(find_peer, at, PORT)
        Trap().set().control()
        gate = [find_peer("bash"), "-c", f"until (exec 3<>/dev/tcp/{HOST}/{PORT}) 2>/dev/null; do :; done"]
        subprocess.run(gate, check=True, timeout=100)  # it opens: for itself
        with servers.run(command, None, at / "log") as process:
            assert process.wait(100) != 0
            assert "Address already in use" in (at / "log").read_text()
