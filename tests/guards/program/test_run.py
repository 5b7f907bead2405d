"""``tailbite run``: a program in the trap never reaches itself, and the report says what was done."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from support.guarded import PYTHON, guarded, run
from support.programs import client, counts
from support.trap import PORT, Trap, server_can_bind, wait_for_release
from tailbite.cli.schema import read_schema
from tailbite.core.ports import PortRange
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("network")


@pytest.mark.parametrize("nobody", [False, True], ids=["root", "nobody"])
@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("127.0.0.1", "-"),
        ("::1", "-"),
        ("::ffff:127.0.0.1", "-"),
        ("0.0.0.0", "-"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
    ],
)
def test_two_hundred_connects_to_the_dead_port_never_reach_themselves(host: str, source: str, nobody: bool) -> None:
    """In the same namespace the same client reaches itself without the guard."""
    Trap(binds_first=source != "-").set()
    done = run(guarded(client(host, source=source), nobody=nobody))
    assert counts(done.stdout) == (0, 200), done.stderr
    wait_for_release()
    assert server_can_bind()
    itself, _ = counts(run(client(host, source=source)).stdout)
    assert itself > 0, "the control did not self-connect"


def test_a_programs_deliberate_self_connect_is_left_alone(tmp_path: Path) -> None:
    """bind(P) and connect(P) is what it asked for."""
    code = (
        "import socket; s = socket.socket(); s.bind(('127.0.0.1', 32246)); s.connect(('127.0.0.1', 32246));"
        "print(s.getsockname() == s.getpeername())"
    )
    Trap().set()
    stats = tmp_path / "stats.json"
    done = run(guarded([PYTHON, "-c", code], "--stats-json", str(stats)))
    assert done.stdout == "True\n", done.stderr
    assert json.loads(stats.read_text())["connects"]["left"] == 1


@pytest.mark.needs("IP_LOCAL_PORT_RANGE", "PIDFD_GETFD")
def test_the_stats_are_there_when_run_returns_and_count_every_connect(tmp_path: Path) -> None:
    Trap().set()
    stats = tmp_path / "stats.json"
    done = run(guarded(client(count=50), "--stats-json", str(stats)))
    assert counts(done.stdout) == (0, 50), done.stderr
    found = json.loads(stats.read_text())
    assert found["schema"] == "tailbite.run/1"
    assert (found["mechanism"], found["guarded"], found["status"]) == ("steer", True, 0)
    assert found["connects"] == {
        "passed": 0,
        "steered": 50,
        "released": 0,
        "held": 0,
        "left": 0,
        "unseen": 0,
        "out_of_reach": 0,
        "takeovers": 0,
    }
    assert list(tmp_path.iterdir()) == [stats]


@pytest.mark.parametrize("options", [(), ("--port", str(PORT))], ids=["looked at", "held"])
def test_a_dash_is_standard_output_and_no_file(tmp_path: Path, options: tuple[str, ...]) -> None:
    """One JSON object beside what the program prints: after it, or before it where tailbite becomes the program."""
    done = run(guarded(["echo", "out"], "--stats-json", "-", *options), cwd=tmp_path)
    ours = done.stdout.removesuffix("out\n") if options else done.stdout.removeprefix("out\n")
    found = json.loads(ours)
    assert (found["schema"], found["guarded"]) == ("tailbite.run/1", True)
    assert found["status"] == (None if options else 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("descriptors", [7, 8, 9])
def test_too_few_descriptors_for_the_guard_change_no_exit_status(descriptors: int, tmp_path: Path) -> None:
    line = " ".join(guarded(["sh", "-c", "'exit 3'"], "--stats-json", "-"))
    done = run(["sh", "-c", f"ulimit -n {descriptors}; exec {line}"], cwd=tmp_path)
    assert done.returncode == 3, done
    assert "runs without a guard" in done.stderr


def test_an_end_that_was_told_just_before_the_supervisor_ended_is_not_lost() -> None:
    code = """if True:
        import os, socket
        from tailbite.guards.program import as_parent
        ours, theirs = socket.socketpair()
        if not (supervisor := os.fork()):
            theirs.send(as_parent._NEWS.pack(4711, 3 << 8))
            os._exit(0)
        os.waitid(os.P_PID, supervisor, os.WEXITED | os.WNOWAIT)
        front = as_parent._Front(ours, supervisor)
        front._reap()  # the news came after they were read
        print(os.waitstatus_to_exitcode(front._status))
    """
    done = run([sys.executable, "-c", code])
    assert done.stdout == "3\n", done.stderr


def test_a_supervisor_that_took_over_since_the_news_were_read_is_continued() -> None:
    """Its stop may be reported before the news of its takeover were read: they had been sent before it stopped."""
    code = """if True:
        import contextlib, os, signal, socket
        from tailbite.guards.program import as_parent
        ours, theirs = socket.socketpair()
        if not (successor := os.fork()):
            theirs.send(as_parent._NEWS.pack(os.getpid(), as_parent._TAKEN_OVER))
            os.kill(os.getpid(), signal.SIGSTOP)
            os.write(1, b"continued")
            os._exit(0)
        os.waitid(os.P_PID, successor, os.WSTOPPED | os.WNOWAIT)
        as_parent._Front(ours, 4711)._reap()
        signal.signal(signal.SIGALRM, lambda *_: os.kill(successor, signal.SIGKILL))
        signal.alarm(60)
        with contextlib.suppress(ChildProcessError):  # its end may have been reported already
            os.waitpid(successor, 0)
    """
    done = run([sys.executable, "-c", code])
    assert done.stdout == "continued", done.stderr


def test_a_standard_output_that_nobody_reads_changes_no_exit_status(tmp_path: Path) -> None:
    line = " ".join(guarded(["sh", "-c", "'exit 3'"], "--stats-json", "-"))
    done = run(["bash", "-c", f"{line} | :; echo ${{PIPESTATUS[0]}}"], cwd=tmp_path)
    assert done.stdout == "3\n"


@pytest.mark.parametrize("options", [(), ("--port", str(PORT))], ids=["inspected", "held"])
def test_the_report_is_valid_by_its_schema(options: tuple[str, ...]) -> None:
    validator: Any = import_module("jsonschema").Draft202012Validator(json.loads(read_schema("run")))
    for line in ("exit 3", "kill -TERM $$", ":"):
        done = run(guarded(["sh", "-c", line], "--stats-json", "-", *options))
        validator.validate(json.loads(done.stdout))


@pytest.mark.needs("IP_LOCAL_PORT_RANGE", "PIDFD_GETFD")
def test_verbose_tells_what_was_steered() -> None:
    Trap().set()
    done = run(guarded(client(count=1), "-v"))
    assert "the source port is steered before each connect" in done.stderr
    assert f"connects to 127.0.0.1:{PORT}: source port from {PORT + 1}" in done.stderr


def test_a_nested_run_is_guarded_by_the_outer_one() -> None:
    Trap().set()
    done = run(guarded(guarded(client(), "--require", "-v")))
    assert counts(done.stdout) == (0, 200)
    assert "guarded by the `tailbite run` around this one" in done.stderr


def test_a_live_server_is_reached_and_sees_the_end_of_the_connection() -> None:
    """The copy of the descriptor is closed before the call runs, or no FIN would come."""
    Trap().set()
    with socket.create_server(("127.0.0.1", PORT)) as server:
        server.settimeout(30)
        code = (
            "import socket; s = socket.create_connection(('127.0.0.1', 32246)); s.sendall(b'x'); s.close(); input()"
        )
        with subprocess.Popen(guarded([PYTHON, "-c", code]), stdin=subprocess.PIPE) as program:
            peer, _ = server.accept()
            peer.settimeout(30)
            assert (peer.recv(10), peer.recv(10)) == (b"x", b"")
            peer.close()
            program.communicate(b"\n", timeout=30)
            assert program.returncode == 0


def test_what_cannot_be_written_is_said_before_anything_runs(tmp_path: Path) -> None:
    done = run(guarded(["echo", "out"], "--stats-json", str(tmp_path / "missing" / "file")))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


MIXED = """
import errno, random, socket, sys
PORT, IP_LOCAL_PORT_RANGE = int(sys.argv[1]), 51
seen = {"itself": 0, "refused": 0, "outside": 0, "full": 0}
for number in range(600):
    kind = random.Random(number).choice(["plain", "plain", "plain", "v6", "bound", "own", "again"])
    host = "::1" if kind == "v6" else "127.0.0.1"
    sock = socket.socket(socket.AF_INET6 if kind == "v6" else socket.AF_INET)
    if kind == "bound":
        sock.bind((host, 0))
    if kind == "own":  # the destination and the port below it
        sock.setsockopt(0, IP_LOCAL_PORT_RANGE, (PORT - 1 | PORT << 16) - (1 << 32 if PORT >= 1 << 15 else 0))
    for _ in range(2 if kind == "again" else 1):
        error = sock.connect_ex((host, PORT))
        if error == errno.ECONNREFUSED:
            seen["refused"] += 1
            seen["outside"] += kind == "own" and sock.getsockname()[1] != PORT - 1
        elif error == errno.EADDRNOTAVAIL:
            seen["full"] += 1
        else:
            seen["itself"] += sock.getsockname() == sock.getpeername()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
    sock.close()
print(*seen.values())
"""


@pytest.mark.needs("IP_LOCAL_PORT_RANGE", "PIDFD_GETFD")
def test_calls_for_the_fast_and_the_slow_path_in_turn_are_all_handled() -> None:
    """A plain call takes the fast path; a socket that is bound, has its own range or connects again does not."""
    write_ephemeral_range(PortRange(PORT - 4, PORT + 4))
    done = run(guarded([PYTHON, "-c", MIXED, str(PORT)], "--require"))
    itself, refused, outside, full = map(int, done.stdout.split())
    assert (itself, outside) == (0, 0), done.stderr
    assert refused + full >= 600
    assert refused > 500
    itself, *_ = map(int, run([PYTHON, "-c", MIXED, str(PORT)]).stdout.split())
    assert itself > 0, "the control did not self-connect"


UDP = """
import socket, sys
itself = 0
for _ in range(100):
    with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((sys.argv[1], int(sys.argv[2])))
        itself += sock.getsockname()[:2] == sock.getpeername()[:2]
print(itself)
"""


@pytest.mark.needs("IP_LOCAL_PORT_RANGE", "PIDFD_GETFD")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connected_udp_socket_is_no_peer_of_its_own_either(host: str) -> None:
    """The kernel gives it the destination's port as readily, and then it receives what it sends."""
    Trap().set()
    assert run(guarded([PYTHON, "-c", UDP, host, str(PORT)], "--require")).stdout == "0\n"
    assert int(run([PYTHON, "-c", UDP, host, str(PORT)]).stdout) > 0, "the control was not given the port"
