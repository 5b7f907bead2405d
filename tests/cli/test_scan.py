"""``tailbite scan`` finds, shows and destroys self-connects, here and elsewhere, and says what it could not see."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from support.guarded import wait_until
from support.trap import PORT, Trap, leftovers, server_can_bind, wait_for_time_wait
from support.users import python_as_nobody
from tailbite.cli.doctor import command as doctor
from tailbite.cli.scan import command
from tailbite.cli.why import command as why
from tailbite.host.see import scan as host_scan
from tailbite.host.see.records import Namespace, NamespaceKind
from tailbite.kernel import procfs
from tailbite.kernel.sockopt import abort

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLD = """
import socket, sys
def hold():
    sock = socket.socket()
    sock.bind(("127.0.0.1", 7000))
    sock.connect(("127.0.0.1", 7000))
    sock.sendall(b"hello")
    print(flush=True)
    input()
if "other" in sys.argv:
    from tailbite.kernel.namespace import fresh_network
    with fresh_network():
        hold()
else:
    hold()
"""


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def document(*arguments: str) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(run("--json", *arguments).stdout)
    assert seen["schema"] == "tailbite.scan/1"
    return seen


def send_to_itself(sock: socket.socket, data: bytes) -> None:
    """Send it, and wait until it can be read and is acknowledged: loopback delivers later on a busy machine."""
    sock.sendall(data)
    wait_until(lambda: [(one.receive_queue, one.send_queue) for one in leftovers()] == [(len(data), 0)], "it arrives")


@pytest.fixture
def self_connected(network: None) -> Iterator[socket.socket]:
    """A self-connected socket of this process, on a port the kernel drew."""
    trap = Trap().set()
    sock = socket.socket()
    while sock.connect_ex(("127.0.0.1", trap.port)):
        pass
    yield sock
    abort(sock)


@pytest.fixture
def elsewhere(network: None) -> Iterator[int]:
    """A process with a self-connect in a namespace of its own; yields its pid."""
    child = subprocess.Popen([sys.executable, "-c", HOLD, "other"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    yield child.pid
    child.communicate(b"\n", timeout=60)


@pytest.mark.usefixtures("network")
def test_a_clean_namespace_is_status_0_and_one_line() -> None:
    result = run("--netns", "self")
    assert (result.return_value, result.stdout) == (0, "No self-connected TCP socket in this network namespace.\n")


def test_what_is_found_is_shown_with_its_process_in_80_columns(self_connected: socket.socket) -> None:
    send_to_itself(self_connected, b"x" * 1234)
    result = run("--netns", "self")
    assert result.return_value == 1
    assert f"127.0.0.1:{PORT}" in result.stdout
    assert str(os.getpid()) in result.stdout
    assert "1.2k" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_the_document_holds_the_facts(self_connected: socket.socket) -> None:
    send_to_itself(self_connected, b"x" * 1234)
    seen = document("--netns", "self")
    (one,) = seen["self_connects"]
    assert (one["endpoint"], one["port"], one["family"]) == (f"127.0.0.1:{PORT}", PORT, "inet")
    assert (one["state"], one["bytes_echoed"], one["receive_queue"]) == ("ESTABLISHED", 1234, 1234)
    assert 0 <= one["idle_ms"] < 60_000
    (owner,) = one["owners"]
    assert owner["pid"] == os.getpid()
    assert owner["command"]
    assert owner["user"]
    assert abs(owner["started"] - time.time()) < 86400
    assert seen["not_visible"] == []


def test_a_time_wait_belongs_to_nobody_and_says_how_long_it_stays(self_connected: socket.socket) -> None:
    self_connected.close()
    wait_for_time_wait()
    (one,) = document("--netns", "self")["self_connects"]
    assert (one["state"], one["owners"], one["bytes_echoed"]) == ("TIME-WAIT", [], None)
    assert 0 < one["expires_ms"] <= 60_000
    assert "s left" in run("--netns", "self").stdout


def test_another_namespace_is_looked_into_and_named(elsewhere: int) -> None:
    seen = document("--netns", str(elsewhere))
    (one,) = seen["self_connects"]
    assert one["endpoint"] == "127.0.0.1:7000"
    assert [owner["pid"] for owner in one["owners"]] == [elsewhere]
    (namespace,) = seen["namespaces"]
    assert namespace["inode"] == one["namespace"]
    everything = document("--netns", "all")
    assert {"127.0.0.1:7000"} <= {found["endpoint"] for found in everything["self_connects"]}
    assert f"/{elsewhere}" in run("--netns", str(elsewhere)).stdout
    assert run("--netns", "self").return_value == 0


def test_kill_destroys_and_says_so(self_connected: socket.socket) -> None:
    result = run("--netns", "self", "--kill", "--apply")
    assert result.return_value == 0
    assert "Its owner gets ECONNABORTED, and the port is free" in " ".join(result.stdout.split())
    assert result.stderr == ""
    with pytest.raises(ConnectionAbortedError):
        self_connected.recv(1)
    assert server_can_bind()
    assert run("--netns", "self", "--kill", "--apply").return_value == 0


def test_kill_ends_a_time_wait_that_no_process_has(self_connected: socket.socket) -> None:
    self_connected.close()
    wait_for_time_wait()
    result = run("--netns", "self", "--kill", "--apply")
    assert result.return_value == 0
    assert "No process had it, and the port is free." in " ".join(result.stdout.split())
    assert server_can_bind()


def test_a_dry_run_shows_the_commands_and_destroys_nothing(self_connected: socket.socket) -> None:
    result = run("--netns", "self", "--kill", "--dry-run")
    assert result.return_value == 1
    assert f"ss -K -t state established src 127.0.0.1:{PORT} dst 127.0.0.1:{PORT}\n" in result.stdout
    self_connected.sendall(b"alive")
    assert self_connected.recv(5) == b"alive"


def test_the_old_spelling_acts_with_a_warning(self_connected: socket.socket) -> None:
    result = run("--netns", "self", "--kill")
    assert result.return_value == 1
    assert "`scan --kill` without --apply will only show the change from the next release on" in result.stderr
    assert server_can_bind()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--apply"], "--apply needs --kill"),
        (["--dry-run"], "--dry-run needs --kill"),
        (["--kill", "--apply", "--dry-run"], "contradict"),
        (["--watch", "abc"], "write it as 100ms, 1s, 10m"),
        (["--watch", "1ms"], "write a time from 50ms to 1d"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: list[str], sentence: str) -> None:
    done = subprocess.run([sys.executable, "-m", "tailbite", "scan", *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr


def test_kill_reaches_another_namespace_and_knows_a_port_that_stays_bound(elsewhere: int) -> None:
    (killed,) = document("--netns", str(elsewhere), "--kill", "--apply")["killed"]
    assert killed == {"endpoint": "127.0.0.1:7000", "refused": None, "still_bound": True, "had_ended": False}
    assert document("--netns", str(elsewhere))["self_connects"] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="is about losing root")
def test_without_root_the_sockets_are_seen_the_rest_is_said(self_connected: socket.socket) -> None:
    done = subprocess.run(
        python_as_nobody("-m", "tailbite", "scan", "--kill", "--apply"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 4
    assert f"127.0.0.1:{PORT}" in done.stdout
    assert "Not destroyed" in done.stdout
    assert "run as root to destroy it" in " ".join(done.stdout.split())
    assert "could not see the processes of other users: not permitted: run as root" in done.stderr
    assert "could not see the network namespace of" in done.stderr
    self_connected.sendall(b"alive")
    abort(self_connected)
    # Only this test's processes: another test's, as the same user, may have a self-connect.
    alone = ("unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", '"$@"; exit $?', "sh")
    arguments = (*alone, *python_as_nobody("-m", "tailbite", "scan"))
    assert subprocess.run(arguments, capture_output=True, check=False).returncode == 3


@pytest.mark.usefixtures("network")
def test_a_namespace_that_vanishes_is_said_not_raised() -> None:
    gone = Namespace(1, NamespaceKind.NAMED, "blue", path="/run/netns/there-is-no-such-namespace")
    shot = host_scan.scan([gone])
    assert shot.namespaces == ()
    assert "namespace blue: it vanished" in str(shot.not_visible[0])


def test_a_process_that_exits_before_it_is_described_leaves_the_socket(
    self_connected: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    monkeypatch.setattr(
        procfs, "socket_holders", lambda inodes: procfs.Holders(dict.fromkeys(inodes, (ended.pid,)), closed=0)
    )
    (one,) = document("--netns", "self")["self_connects"]
    assert one["owners"] == []


def test_hidden_processes_are_said(self_connected: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "socket_holders", lambda inodes: procfs.Holders({}, closed=0))
    monkeypatch.setattr(procfs, "hidden_processes", lambda: "invisible")
    assert "hidepid=invisible" in run("--netns", "self").stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a /proc")
def test_a_proc_that_hides_other_users_processes_is_said_with_its_option(self_connected: socket.socket) -> None:
    mount = 'mount -t proc -o hidepid=2 proc /proc || exit 77; exec "$@"'
    arguments = ["unshare", "-m", "sh", "-c", mount, "sh", *python_as_nobody("-m", "tailbite", "scan")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this system does not let us mount /proc")
    assert done.returncode == 1
    assert f"127.0.0.1:{PORT}" in done.stdout
    assert done.stderr.count("/proc is mounted with hidepid=") == 2


@pytest.mark.usefixtures("network")
def test_a_name_that_is_none_is_wrong_usage() -> None:
    for wanted in ("no-such-namespace", "4194305"):
        done = subprocess.run(
            [sys.executable, "-m", "tailbite", "scan", "--netns", wanted], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "--netns" in done.stderr
        assert "Traceback" not in done.stderr


def test_watch_as_lines_sees_it_come_and_go(self_connected: socket.socket) -> None:
    arguments = [sys.executable, "-m", "tailbite", "scan", "--netns", "self", "--watch", "0.05", "--json-lines"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as watcher, closing(watcher.stdout):  # type: ignore[type-var]
        assert watcher.stdout is not None
        first = json.loads(watcher.stdout.readline())
        assert len(first["self_connects"]) == 1
        abort(self_connected)
        deadline = time.monotonic() + 60
        while json.loads(watcher.stdout.readline())["self_connects"]:
            assert time.monotonic() < deadline
        watcher.send_signal(2)
        assert watcher.wait(60) == 130


@pytest.mark.usefixtures("self_connected")
def test_watch_draws_as_often_as_told() -> None:
    result = run("--netns", "self", "--watch", "0.05", "--count", "3")
    assert result.return_value == 1
    assert "every 50 ms" in result.stdout


@pytest.mark.parametrize(("ours", "name"), [("", "f" * 12), (f"0::/docker/{'f' * 64}\n", "python")])
def test_a_container_is_named_wherever_it_is_told_of_and_not_the_one_we_are_in(
    elsewhere: int, monkeypatch: pytest.MonkeyPatch, ours: str, name: str
) -> None:
    theirs = f"0::/docker/{'f' * 64}\n"
    monkeypatch.setattr(procfs, "read_cgroup", lambda pid: {elsewhere: theirs, "self": ours}.get(pid, ""))
    (place,) = document("--netns", str(elsewhere))["namespaces"]
    assert place["name"].partition("/")[0].rstrip("0123456789.") == name.rstrip("0123456789.")
    if not ours:
        assert place["kind"] == "container"
        assert f"in container {name}" in run("--netns", name).stdout
        told = CliRunner().invoke(why, ["7000"], standalone_mode=False)
        assert f"container {name}" in " ".join(told.stdout.split())
        told = CliRunner().invoke(doctor, ["--netns", name], standalone_mode=False)
        assert f"container {name}" in told.stdout


@pytest.mark.usefixtures("network")
def test_the_name_of_a_process_cannot_move_the_cursor(tmp_path: Path) -> None:
    program = tmp_path / "evil\x1b[31m[bold]"
    program.symlink_to(sys.executable)
    child = subprocess.Popen([program, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    result = run("--netns", "self")
    child.communicate(b"\n", timeout=60)
    assert "\x1b" not in result.stdout
    assert "evil?[31m[bold" in result.stdout.replace("\\n", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes somebody without root")
def test_without_root_one_sees_and_kills_in_namespaces_of_ones_own() -> None:
    """Namespaces made by `unshare -Urn` and rootless containers belong to the user; root's own stay closed."""
    code = """
import os, subprocess, sys
from tailbite.kernel.namespace import enter_private_network
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    enter_private_network()
    import socket
    sock = socket.socket()
    sock.bind(("127.0.0.1", 7000)); sock.connect(("127.0.0.1", 7000)); sock.sendall(b"hello")
    os.write(writing, b"+")
    sock.recv(5)
    try: sock.recv(1)
    except ConnectionAbortedError: os._exit(7)
    os._exit(1)
os.read(reading, 1)
scan = [sys.executable, "-m", "tailbite", "scan", "--netns", str(child), "--json"]
print(subprocess.run(scan, capture_output=True, text=True).stdout.replace("\\n", ""))
why = [sys.executable, "-m", "tailbite", "why", "7000", "--netns", str(child), "--json"]
print(subprocess.run(why, capture_output=True, text=True).stdout.replace("\\n", ""))
subprocess.run([*scan, "--kill", "--apply"], stdout=subprocess.DEVNULL)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(python_as_nobody("-c", code), capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    seen, reason, told = done.stdout.splitlines()
    (one,) = json.loads(seen)["self_connects"]
    assert (one["endpoint"], one["bytes_echoed"]) == ("127.0.0.1:7000", 5)
    assert [finding["code"] for finding in json.loads(reason)["findings"]] == ["TB101"]
    assert told == "7"
