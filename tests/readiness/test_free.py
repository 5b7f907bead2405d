"""``tailbite wait --free``: a server that starts after it can bind, and the kernel says so."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys

import pytest

from support.holders import Holder, server_binds
from support.trap import PORT, Trap, server_can_bind
from tailbite.errors import NotReadyError
from tailbite.readiness import free
from tailbite.readiness.free import Bind, wait_until_free
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
    assert "port 5000 of 127.0.0.1: in TIME-WAIT (a server that sets SO_REUSEADDR could bind it)" in strict.stderr
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
    assert "port 5000 of 127.0.0.1: in use (a server that sets SO_REUSEADDR could bind it)" in told


@pytest.mark.usefixtures("network")
def test_free_refuses_an_address_that_cannot_be_bound_by_its_name() -> None:
    done = run("--free", "[fe80::1%nosuch]:80", "-t", "0")
    assert done.returncode == 4
    assert "can bind here: this host has no interface nosuch" in done.stderr
    done = run("--free", "[fe80::1]:80", "-t", "0")
    assert done.returncode == 2
    assert "fe80::1 is link-local: name its interface too, as in [fe80::1%eth0]:80" in done.stderr
    foreign = run("--free", "[2001:db8::1]:80", "-t", "0")
    assert "Cannot assign requested address: port 80 of 2001:db8::1" in foreign.stderr


def test_free_waits_for_a_name_that_cannot_be_resolved_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a host starts, its resolver answers "try again" (EAI_AGAIN); a name that does not exist is an error."""
    answers = [
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 5000))],
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    ]

    def resolve(*_: object) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    seen: list[Readiness] = []
    found = wait_until_free([Bind("db", 5000)], interval=0.001, timeout=None, on_attempt=seen.append)
    assert [one.status for one in seen] == [TargetStatus.NAME_UNKNOWN] * 2 + [TargetStatus.FREE]
    assert found == (seen[-1],)
    with pytest.raises(OSError, match=r"db is not a name of this host \(Name or service not known\)"):
        wait_until_free([Bind("db", 5000)], timeout=0)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("reuse", [False, True])
def test_free_calls_the_time_wait_of_a_self_connect_so_though_no_server_can_bind(reuse: bool) -> None:
    with Holder("self_chosen", "127.0.0.1", reuse=False).held(5000):
        assert _status(5000, reuse=reuse) == TargetStatus.IN_USE
    with Holder("self_chosen_time_wait", "127.0.0.1", reuse=False).held(5000):
        assert not server_can_bind(port=5000, reuse=reuse)
        assert _status(5000, reuse=reuse) == TargetStatus.TIME_WAIT


def _status(port: int, *, reuse: bool) -> TargetStatus:
    with pytest.raises(NotReadyError) as missed:
        wait_until_free([Bind("127.0.0.1", port)], reuse=reuse, timeout=0)
    (readiness,) = missed.value.targets
    assert isinstance(readiness, Readiness)
    return readiness.status


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
def test_a_port_that_was_not_tried_in_time_is_in_the_answer_too() -> None:
    where = "127.0.0.1:1"
    done = run(where, f"http://{where}/a", f"http://{where}/b", "--free", where, "-t", "0", "--json")
    assert done.returncode == 1
    assert done.stderr.endswith("  port 1 of 127.0.0.1: not reached yet\n")
    told = json.loads(done.stdout)["targets"]
    assert [target["target"] for target in told] == [
        *("127.0.0.1:1", "127.0.0.1:1 (http)", "127.0.0.1:1 (http) #2", "port 1 of 127.0.0.1"),
    ]
    assert [target["status"] for target in told] == ["refused"] * 3 + ["nothing"]
    assert [(target["host"], target["port"], target["protocol"], target["bind"]) for target in told[1:]] == [
        ("127.0.0.1", 1, "http", False),
        ("127.0.0.1", 1, "http", False),
        ("127.0.0.1", 1, None, True),
    ]


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
    [(socket.EAI_NONAME, "is not a name of this host"), (socket.EAI_FAIL, "could not be resolved")],
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
