"""``tailbite wait --free``: a server that starts after it can bind, and the kernel says so."""

from __future__ import annotations

import errno
import json
import re
import socket
import subprocess
import sys

import pytest

from support.holders import Holder, server_binds
from support.trap import PORT, Trap, server_can_bind
from tailbite.errors import NotReadyError
from tailbite.readiness import free
from tailbite.readiness.status import Readiness, TargetStatus

WAIT = [sys.executable, "-m", "tailbite", "wait"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*WAIT, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.usefixtures("network")
def test_free_waits_for_the_program_that_holds_the_port_and_then_starts_the_server() -> None:
    server = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 5000)); s.listen(); print('bound')"
    with socket.create_server(("127.0.0.1", 5000), reuse_port=False):
        held = run("--free", "5000", "-t", "0", "--", "echo", "never")
        assert (held.returncode, held.stdout) == (1, "")
        assert held.stderr == "tailbite: not ready at once:\n  port 5000: in use\n"
        waiting = subprocess.Popen(
            [*WAIT, "--free", "5000", "--interval", "20ms", "--", sys.executable, "-c", server],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert next(iter(waiting.stderr or ())) == "tailbite: port 5000: in use\n"
    out, _ = waiting.communicate(timeout=60)
    assert (waiting.returncode, out) == (0, "bound\n")


@pytest.mark.usefixtures("network")
def test_free_tells_time_wait_from_a_port_in_use_and_the_kernel_agrees() -> None:
    def server_binds(*, reuse: bool) -> bool:
        return server_can_bind(port=5000, reuse=reuse)

    here = ("127.0.0.1", 5000)
    with socket.create_server(here) as listener, socket.create_connection(here) as peer:
        listener.accept()[0].close()  # the side that closes first keeps TIME-WAIT
        peer.recv(1)
    assert (server_binds(reuse=False), server_binds(reuse=True)) == (False, True)
    strict = run("--free", "127.0.0.1:5000", "-t", "0")
    assert strict.returncode == 1
    assert "127.0.0.1:5000: in TIME-WAIT (a server that sets SO_REUSEADDR could bind it)" in strict.stderr
    assert run("--free", "127.0.0.1:5000", "--reuseaddr", "-t", "0").returncode == 0
    assert run("--free", "5001", "--free", "[::1]:5000", "-t", "0").returncode == 0


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("kind", ["accepted", "bound"])
def test_free_calls_only_time_wait_so(kind: str) -> None:
    """A server with SO_REUSEADDR can bind beside these too, and they are not in TIME-WAIT."""
    with Holder(kind, "127.0.0.1", reuse=True).held(5000):
        assert server_binds("127.0.0.1", 5000, reuse=True)
        assert not server_binds("127.0.0.1", 5000, reuse=False)
        told = run("--free", "127.0.0.1:5000", "-t", "0").stderr
    assert "127.0.0.1:5000: in use (a server that sets SO_REUSEADDR could bind it)" in told


@pytest.mark.usefixtures("network")
def test_free_refuses_an_address_that_cannot_be_bound_by_its_name() -> None:
    done = run("--free", "no-such-host.invalid:80", "-t", "0")
    assert done.returncode == 4
    # Which of the two, the resolver decides: a namespace without a network has none that answers.
    story = "no server can bind here: no-such-host.invalid (is not a name of this host|could not be resolved) [(]"
    assert re.search(story, done.stderr)
    done = run("--free", "[fe80::1]:80", "-t", "0")
    assert done.returncode == 2
    assert "fe80::1 is link-local: name its interface too, as in [fe80::1%eth0]:80" in done.stderr
    assert "Cannot assign requested address: [2001:db8::1]:80" in run("--free", "[2001:db8::1]:80", "-t", "0").stderr


@pytest.mark.usefixtures("network")
def test_free_finds_a_socket_that_is_connected_to_itself() -> None:
    Trap().set().control()
    ends = socket.socket()
    ends.bind(("127.0.0.1", PORT))
    ends.connect(("127.0.0.1", PORT))
    with ends:
        told = json.loads(run("--free", str(PORT), "-t", "0", "--json", "-q").stdout)
        assert [(target["target"], target["status"]) for target in told["targets"]] == [(f"port {PORT}", "in-use")]
        assert run("--free", str(PORT), "--reuseaddr", "-t", "0").returncode == 1


@pytest.mark.usefixtures("network")
def test_free_and_ready_are_waited_for_within_one_time() -> None:
    with socket.create_server(("127.0.0.1", 5001)):
        done = run("127.0.0.1:5001", "--free", "5000", "-t", "10s", "--json")
        assert done.returncode == 0
        assert "all 2 ready" in done.stderr
        assert [target["status"] for target in json.loads(done.stdout)["targets"]] == ["ready", "free"]
        foreign = run("--free", "192.0.2.1:5000", "-t", "0")
        assert foreign.returncode == 4
        assert "tailbite: no server can bind here: Cannot assign requested address" in foreign.stderr


@pytest.mark.parametrize(
    ("number", "why"),
    [(socket.EAI_NONAME, "is not a name of this host"), (socket.EAI_AGAIN, "could not be resolved")],
)
def test_a_name_that_is_unknown_is_told_from_a_resolver_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, number: int, why: str
) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(number, "reason")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(socket.gaierror, match=f"db {why} [(]reason[)]"):
        free.wait_until_free([free.Bind("db", 5000)], timeout=0)


@pytest.mark.usefixtures("network")
def test_what_cannot_be_seen_is_not_called_time_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.EPERM, "no")

    with Holder("accepted", "127.0.0.1", reuse=True).held(5000):
        monkeypatch.setattr(free, "SockDiag", fail)
        seen: list[Readiness] = []
        with pytest.raises(NotReadyError):
            free.wait_until_free([free.Bind("127.0.0.1", 5000)], timeout=0, on_attempt=seen.append)
    assert [readiness.status for readiness in seen] == [TargetStatus.IN_USE]
