"""``tailbite watch``, ``exporter`` and ``check`` as a person or a service runs them: output, signals, refusals."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from support.itself import connected_to_itself
from support.limits import without
from support.machine_events import machine_events
from support.trap import PORT, server_can_bind
from support.users import python_as_nobody

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("network")

TAILBITE = (sys.executable, "-m", "tailbite")


@pytest.fixture(autouse=True)
def shared_events() -> Iterator[None]:
    with machine_events():
        yield


def start(*arguments: str, under: tuple[str, ...] = (), **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([*under, *TAILBITE, *arguments], stdout=-1, stderr=-1, text=True, **options)


def run(*arguments: str, command: tuple[str, ...] = TAILBITE) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60)


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_lines_of_json_have_a_beginning_each_event_and_an_end() -> None:
    with connected_to_itself(PORT):
        done = run("watch", "--netns", "self", "--source", "poll", "--for", "100ms", "--json")
    started, event, stopped = events(done.stdout)
    assert done.returncode == 1
    assert {one["schema"] for one in (started, event, stopped)} == {"tailbite.watch/1"}
    assert (started["event"], started["source"]) == ("started", "poll")
    assert (event["event"], event["moment"], event["is_new"], event["port"]) == ("self-connect", "found", True, PORT)
    assert event["pid"] == os.getpid()
    assert (stopped["event"], stopped["total"]) == ("stopped", 1)


def test_nothing_is_status_0_and_a_sentence() -> None:
    done = run("watch", "--netns", "self", "--source", "poll", "--for", "10ms")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[-1] == "tailbite: 0 self-connects in this namespace"


@pytest.mark.needs("SOCK_DESTROY")
def test_kill_and_exec_and_count() -> None:
    with connected_to_itself(PORT):
        arguments = ("--source", "poll", "--kill", "--count", "1", "--exec", "echo port $TAILBITE_PORT; cat")
        done = run("watch", "--netns", "self", *arguments)
    assert done.returncode == 1
    assert f"port {PORT}\n" in done.stdout
    assert re.search(r"found python\S* \(pid \d+\): destroyed after \d+\.\d ms, but its owner has bound", done.stdout)


def test_without_privilege_it_says_what_it_does_instead() -> None:
    command = tuple(python_as_nobody("-m", "tailbite"))
    done = run("watch", "--netns", "self", "--for", "10ms", command=command)
    assert done.returncode == 0
    assert "tailbite: source of events: destroyed sockets" in done.stderr
    assert "tailbite: not available: eBPF: eBPF needs root, or CAP_BPF and CAP_PERFMON" in done.stderr


@pytest.mark.needs("BPF_TRACEPOINT")
def test_a_source_that_is_refused_is_status_4() -> None:
    done = run("watch", "--source", "bpf", command=(*without("BPF"), *TAILBITE))
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.count("\n") == 1
    assert "--source bpf cannot be used here: refused although the capabilities are there" in done.stderr


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP)],
)
def test_signals_end_it_with_every_line_written(number: signal.Signals, status: int) -> None:
    with connected_to_itself(PORT), start("watch", "--netns", "self", "--source", "poll", "--json") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait(60) == status
    assert [one["event"] for one in events("".join(lines) + rest)][:2] == ["started", "self-connect"]


def test_under_nohup_a_closed_terminal_does_not_end_it() -> None:
    with start("watch", "--netns", "self", "--source", "poll", "--json", under=("nohup",)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)  # the kernel delivers SIGHUP, the lower number, first
        process.stdout.read()
        assert process.wait(60) == -signal.SIGTERM


@pytest.mark.needs("SOCK_DESTROY", "SOCK_DESTROY_TIME_WAIT")
def test_a_count_is_reached_only_after_the_kill() -> None:
    """The event of the end comes first: the TIME-WAIT that it left must be gone before the command ends."""
    command = ("watch", "--netns", "self", "--source", "destroy", "--kill", "--count", "2", "--every", "1h")
    with connected_to_itself(PORT + 1), start(*command) as process:
        assert process.stdout is not None
        assert "found" in process.stdout.readline()  # the first inspection is over, and no other comes
        connected_to_itself(PORT).close()
        assert "ended: its TIME-WAIT was destroyed" in process.stdout.readline()
        assert process.wait(60) == 1
    assert server_can_bind()


def test_kill_9_leaves_nothing_behind() -> None:
    """The kernel detaches the program and frees maps and buffers with the last descriptor."""
    with start("watch", "--netns", "self", "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    with connected_to_itself(PORT):
        done = run("watch", "--netns", "self", "--for", "10ms", "--json")
    assert [one["event"] for one in events(done.stdout)] == ["started", "self-connect", "stopped"]


def test_a_reader_that_went_away_ends_it() -> None:
    with start("watch", "--netns", "self", "--source", "poll", "--every", "50ms", "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        with connected_to_itself(PORT):
            assert process.wait(60) in (0, 1)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.needs("SOCK_DESTROY")
def test_a_full_pipe_does_not_stop_kill() -> None:
    """The reader never reads: 64 KiB fit into the pipe, 10 000 lines wait, and self-connects are destroyed still."""
    reading, writing = os.pipe()
    filled = b"x" * 65536
    os.set_blocking(writing, False)
    os.write(writing, filled)
    os.set_blocking(writing, True)
    command = [*TAILBITE, "watch", "--netns", "self", "--source", "poll", "--every", "20ms", "--kill", "--json"]
    with subprocess.Popen(command, stdout=writing, stderr=subprocess.DEVNULL) as process:
        for port in range(PORT, PORT + 3):
            with connected_to_itself(port) as sock:
                sock.settimeout(30)
                with pytest.raises(ConnectionAbortedError):
                    while True:
                        sock.sendall(b"x")
                        sock.recv(1)
        process.kill()
    os.close(reading)
    os.close(writing)


def test_on_a_terminal_a_table_stays() -> None:
    main, other = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    command = [*TAILBITE, "watch", "--netns", "self", "--source", "poll", "--for", "1500ms"]
    with connected_to_itself(PORT):
        with subprocess.Popen(command, stdout=other, stderr=subprocess.DEVNULL, env=environment) as process:
            os.close(other)
            shown = b""
            try:
                while data := os.read(main, 65536):
                    shown += data
            except OSError:
                pass
            assert process.wait(60) == 1
    os.close(main)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert f"127.0.0.1:{PORT}" in text
    assert "ESTABLISHED" in text
    assert "1 self-connect in this namespace; source of events: poll" in text
    assert max(map(len, text.replace("\r", "\n").splitlines())) <= 80


@pytest.mark.parametrize(
    "arguments",
    [
        ("watch", "--every", "0"),
        ("watch", "--source", "magic"),
        ("exporter", "--web.listen-address", "9745"),
        ("exporter", "--web.listen-address", ":99999"),
        ("exporter", "--once"),
        ("exporter", "--web.tls-key", "key.pem"),
        ("exporter", "--web.tls-cert", "/missing/cert.pem"),
        ("exporter", "--web.basic-auth", "/missing/passwords"),
        ("exporter", "--textfile", "/missing/tailbite.prom", "--once", "--no-log", "--source", "poll"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    sentences = [line for line in done.stderr.splitlines() if not line.startswith("tailbite: source")]
    assert (done.returncode, done.stdout, len(sentences)) == (2, "", 1), done.stderr


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    while "serving" not in (line := process.stderr.readline()):
        assert line
    return line.split()[-1].replace("/metrics", "")


def test_the_exporter_serves_until_sigterm_and_its_port_is_free_then() -> None:
    for _ in range(2):  # and comes back at the same port
        arguments = ("--web.listen-address", "127.0.0.1:9745", "--netns", "self", "--source", "poll")
        with connected_to_itself(PORT), start("exporter", *arguments) as process:
            url = address_of(process)
            text = ""
            while "tailbite_self_connects{" not in text:
                text = urllib.request.urlopen(f"{url}/metrics", timeout=60).read().decode()
            assert f'tailbite_self_connects{{port="{PORT}",state="held",where="host"}} 1.0' in text
            process.terminate()
            assert process.stdout is not None
            lines = events(process.stdout.read())
            assert process.wait(60) == 0
        assert [one["event"] for one in lines] == ["started", "self-connect"]
        subprocess.run([*TAILBITE, "fix", "--kill", str(PORT), "--apply"], capture_output=True)


def test_an_address_in_use_is_status_4_and_says_what_to_run() -> None:
    with socket.create_server(("127.0.0.1", 9745)):
        done = run("exporter", "--web.listen-address", "127.0.0.1:9745", "--source", "poll")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == "tailbite: port 9745 cannot be served: Address already in use; run tailbite why 9745\n"


def test_an_address_of_another_host_is_status_4_and_says_so() -> None:
    done = run("exporter", "--web.listen-address", "192.0.2.1:9745", "--source", "poll")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.endswith("Cannot assign requested address; give an address of this host\n")


def test_a_file_that_cannot_be_written_is_said_once_and_written_when_there_is_space(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    path = folder / "tailbite.prom"
    options = ("--no-log", "--netns", "self", "--source", "poll", "--every", "10ms")
    with start("exporter", "--textfile", str(path), *options) as process:
        assert process.stderr is not None
        said = [process.stderr.readline(), process.stderr.readline()]
        time.sleep(0.3)  # several inspections more; fewer on a busy machine, which the test does not mind
        folder.mkdir()
        while not path.exists():
            time.sleep(0.01)
        process.terminate()
        said += process.stderr.readlines()
        assert process.wait(60) == 0
    assert said[1:] == [f"tailbite: cannot write {path}: No such file or directory\n"]


def test_a_port_in_the_ephemeral_range_is_warned_of() -> None:
    with start(
        "exporter", "--web.listen-address", "127.0.0.1:40000", "--source", "poll", "--netns", "self"
    ) as process:
        assert process.stderr is not None
        assert "port 40000 lies in the ephemeral range" in process.stderr.readline()
        process.kill()


def test_textfile_mode_for_the_real_node_exporter(tmp_path: Path) -> None:
    path = tmp_path / "tailbite.prom"
    done = run("exporter", "--textfile", str(path), "--once", "--no-log", "--netns", "self", "--source", "poll")
    assert (done.returncode, done.stdout) == (0, "")
    assert 'tailbite_namespaces{result="looked_at"} 1.0' in path.read_text()


def test_textfile_mode_writes_again_after_each_inspection(tmp_path: Path) -> None:
    path = tmp_path / "tailbite.prom"
    arguments = ("--textfile", str(path), "--no-log", "--netns", "self", "--source", "poll", "--every", "50ms")
    with start("exporter", *arguments) as process:
        seen: set[str] = set()
        while len(seen) < 3:
            if path.exists():
                seen.update(re.findall(r"^tailbite_last_look.*", path.read_text(), re.MULTILINE))
            time.sleep(0.01)
        process.terminate()
        assert process.wait(60) == 0


def test_help_says_what_is_needed(peer: Callable[[str], str]) -> None:
    for name in ("watch", "exporter", "check"):
        done = run(name, "--help")
        assert done.returncode == 0
        assert "Exit status" in done.stdout
