"""The demo really shows what it says, leaves nothing behind, and needs no root."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.limits import without
from support.users import python_as_nobody

if TYPE_CHECKING:
    from collections.abc import Callable

DEMO = [sys.executable, "-m", "tailbite", "demo"]


def demo(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DEMO, *arguments], capture_output=True, text=True, timeout=110, **options)


def processes_in(network: int) -> list[int]:
    """The processes in the network namespace with this inode number."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "ns/net").stat().st_ino == network:
                found.append(int(process.name))
    return found


@pytest.mark.usefixtures("network")
def test_every_act_shows_what_it_claims_with_the_real_telnet(peer: Callable[[str], str]) -> None:
    peer("telnet")
    done = demo("--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["schema"] == "tailbite.demo/1"
    assert told["shown"] is True
    acts = {act["number"]: act["measured"] for act in told["acts"]}
    assert list(acts) == [1, 2, 3, 4, 5, 6]
    assert acts[1] | {"listeners": 0} == acts[1]
    assert acts[2]["client"] == "telnet"
    assert acts[2]["came_back"] == "hello"
    assert acts[3]["socket"] == "127.0.0.1:32246 127.0.0.1:32246 ESTABLISHED"
    assert acts[3]["process_owns_it"] is True
    assert acts[4] == {"bind": "EADDRINUSE", "bind_with_so_reuseaddr": "EADDRINUSE"}
    assert acts[5]["left"] == "TIME-WAIT"
    assert acts[5]["bind_with_so_reuseaddr"] == "EADDRINUSE"
    assert acts[6]["control_self_connected"] is True
    assert acts[6]["attempts"] >= 500
    assert acts[6]["self_connects"] == acts[6]["sockets_left_on_the_port"] == 0
    assert acts[6]["answer"] == "the real server"
    assert told["seconds"] < 100  # nothing waits for a timeout


@pytest.mark.usefixtures("network")
def test_people_get_the_netstat_line_and_a_table_within_80_columns() -> None:
    done = demo(env={**os.environ, "PATH": "/nonexistent"})  # no telnet: a plain socket is the client
    assert done.returncode == 0, done.stderr
    assert "127.0.0.1:32246   127.0.0.1:32246   ESTABLISHED" in done.stdout
    assert "measured here" in done.stdout
    assert "\x1b" not in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if ">>>" not in line)


@pytest.mark.usefixtures("network")
def test_another_port_and_range() -> None:
    done = demo("--json", "--port", "50051", "--range", "32768-60999")
    assert done.returncode == 0
    assert json.loads(done.stdout)["acts"][2]["measured"]["socket"].startswith("127.0.0.1:50051 ")


@pytest.mark.usefixtures("network")
def test_natural_needs_no_namespace_and_happens_by_chance() -> None:
    done = demo("--natural", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [act["number"] for act in told["acts"]] == [1, 2, 3, 4, 6]
    assert told["port"] == 32774


@pytest.mark.usefixtures("network")
@pytest.mark.skipif(os.geteuid() != 0, reason="is about becoming nobody")
def test_an_ordinary_user_needs_nothing() -> None:
    command = python_as_nobody("-m", "tailbite", "demo", "--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["shown"] is True


@pytest.mark.usefixtures("network")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the emulated limits know x86_64's system calls")
@pytest.mark.parametrize("words", [("demo",), ("demo", "--natural"), ("lab", "handshake")])
def test_a_system_that_lists_no_sockets_is_named_in_one_sentence(words: tuple[str, ...]) -> None:
    command = [*without("SOCK_DIAG"), sys.executable, "-m", "tailbite", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert "sock_diag, the kernel's list of sockets, does not answer here (Protocol not supported)" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("network")
@pytest.mark.skipif(os.geteuid() != 0, reason="sets a limit of a user namespace of its own")
def test_where_namespaces_are_forbidden_it_names_the_setting_and_exits_4() -> None:
    forbid = 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"'
    done = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", forbid, "sh", *DEMO], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 4
    assert "user.max_net_namespaces is 0" in done.stderr
    assert "--natural" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "80"], "80 is not allowed here: give a port from 1024 to 65534"),
        (["--port", "five"], "is not a port or a TCP service that this host knows"),
        (["--range", "9-8"], "9-8"),
        (["--port", "8000"], "outside the range 9000-65500"),
        (["--natural", "--full"], "leave out --full"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(arguments: list[str], says: str) -> None:
    done = demo(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_ended_in_the_middle_it_leaves_no_process_in_its_namespace(how: signal.Signals) -> None:
    with subprocess.Popen([*DEMO, "--full"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if "Waiting until the server can start" in line:
                break
        with open(f"/proc/{running.pid}/ns/net") as held:  # noqa: PTH123 - held, its number is not given away
            network = os.fstat(held.fileno()).st_ino
            assert network != Path("/proc/thread-self/ns/net").stat().st_ino
            assert processes_in(network) == [running.pid]
            running.send_signal(how)
            assert running.wait(timeout=60) == (130 if how is signal.SIGINT else -signal.SIGKILL)
            assert running.stderr is not None
            assert "Traceback" not in running.stderr.read()
            assert processes_in(network) == []
