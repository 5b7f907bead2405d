"""``tailbite wait``: beside the gates that open falsely, it does not; then it becomes the command."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.trap import PORT, Trap, leftovers, server_can_bind
from tailbite.cli.schema import read_schema
from tailbite.readiness.status import TargetStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT = [sys.executable, "-m", "tailbite", "wait"]
DEAD = f"127.0.0.1:{PORT}"


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*WAIT, *arguments], capture_output=True, text=True, timeout=60, **options)


@contextlib.contextmanager
def greeter(words: bytes = b"", port: int = 0) -> Iterator[str]:
    """A server that says this to everybody; gives HOST:PORT."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", port))
    sock.listen()
    kept = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                kept.append(sock.accept()[0])
                with contextlib.suppress(OSError):  # a client that went away at once
                    kept[-1].sendall(words)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{sock.getsockname()[1]}"
    finally:
        sock.shutdown(socket.SHUT_RDWR)
        thread.join()
        for one in (sock, *kept):
            one.close()


def first_line(stream: Any, seconds: float = 60) -> str:
    """Wait for a line with a deadline."""
    assert select.select([stream], [], [], seconds)[0], "it said nothing"
    return str(stream.readline())


@pytest.mark.peers
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    "gate",
    [
        pytest.param(["nc", "-z", "-w", "2", "127.0.0.1", str(PORT)], id="nc -z"),
        pytest.param(["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{PORT}"], id="bash /dev/tcp"),
    ],
)
def test_the_usual_gates_open_falsely_and_keep_the_server_down_and_ours_does_neither(
    gate: list[str], peer: Callable[[str], str]
) -> None:
    peer(gate[0])
    Trap().set().control()

    ours = run(DEAD, "--timeout", "1", "--interval", "0.001")
    assert ours.returncode == 1
    assert ours.stderr.endswith(f"tailbite: not ready after 1 s:\n  {DEAD}: refused\n")
    assert leftovers() == []
    assert server_can_bind()

    # The control: the same port, in the same namespace, after us.
    opened = any(
        subprocess.run(gate, capture_output=True, timeout=60).returncode == 0 and not server_can_bind(reuse=True)
        for _ in range(4)
    )
    assert opened, "the control did not open"
    assert not server_can_bind()


@pytest.mark.usefixtures("network")
def test_it_opens_when_the_server_comes_which_binds_at_the_first_try() -> None:
    Trap().set().control()
    waiting = subprocess.Popen(
        [*WAIT, DEAD, "--interval", "0.005", "--", "echo", "open"], stdout=-1, stderr=-1, text=True
    )
    with waiting:
        assert first_line(waiting.stderr) == f"tailbite: {DEAD}: refused\n"
        time.sleep(0.3)  # sixty attempts or so, every one a chance to go wrong
        assert waiting.poll() is None
        with greeter(port=PORT):
            assert waiting.wait(60) == 0
        assert waiting.stdout is not None
        assert waiting.stdout.read() == "open\n"


@pytest.mark.usefixtures("network")
def test_the_command_gets_the_process_its_arguments_signals_and_exit_status() -> None:
    with greeter() as server:
        script = 'echo $$; printf "<%s>" "$@"; grep SigIgn /proc/self/status; exit 7'
        process = subprocess.Popen(
            [*WAIT, "-q", server, "--", "sh", "-c", script, "sh", "--timeout", "--", "a b"],
            stdout=subprocess.PIPE,
            text=True,
        )
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 7
        pid, rest = out.split("\n", 1)
        assert int(pid) == process.pid
        assert rest.startswith("<--timeout><--><a b>")
        # Signals 32 and 33 are glibc's own; Python 3.13's subprocess hands them on ignored, with us or without.
        assert int(rest.split()[-1], 16) & 0x7FFFFFFF == 0, "the command inherited ignored signals"

        process = subprocess.Popen(
            [*WAIT, "-q", server, "--", "sh", "-c", "echo up; exec sleep 60"], stdout=subprocess.PIPE, text=True
        )
        with process:
            assert first_line(process.stdout) == "up\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == -signal.SIGTERM


@pytest.mark.usefixtures("network")
def test_a_command_that_cannot_be_run_is_told_as_a_shell_tells_it(tmp_path: Any) -> None:
    with greeter() as server:
        missing = run(server, "--", "no-such-command")
        assert missing.returncode == 127
        assert missing.stderr.endswith("tailbite: cannot run no-such-command: No such file or directory\n")
        (script := tmp_path / "app").write_text("#!/no/such/interpreter\n")
        script.chmod(0o755)
        found = run(server, "--", "app", env={**os.environ, "PATH": f"/nonexistent:{tmp_path}:/usr/bin"})
        assert found.returncode == 127
        assert f"cannot run app: /no/such/interpreter, which {script} needs, does not exist" in found.stderr
    refused = run(server, "--timeout", "0", "--", "echo", "never")
    assert (refused.returncode, refused.stdout) == (1, "")


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_waiting_can_be_interrupted(number: signal.Signals, status: int) -> None:
    with subprocess.Popen([*WAIT, DEAD], stderr=subprocess.PIPE, text=True) as waiting:
        first_line(waiting.stderr)
        waiting.send_signal(number)
        assert waiting.wait(60) == status
        assert waiting.stderr is not None
        assert "Traceback" not in waiting.stderr.read()


@pytest.mark.usefixtures("network")
def test_different_targets_have_different_protocols_and_json_tells_them_apart() -> None:
    schema = json.loads(read_schema("wait"))
    names = [status.name.lower().replace("_", "-") for status in TargetStatus]
    assert schema["$defs"]["status"]["enum"] == names
    validator: Any = import_module("jsonschema").Draft202012Validator(schema)
    with greeter(b"SSH-2.0-x\r\n") as ssh, greeter(b"220 x ESMTP\r\n") as smtp:
        good = run("--json", "-q", f"ssh://{ssh}", f"smtp://{smtp}", f"tcp://{smtp}")
        assert (good.returncode, good.stderr) == (0, "")
        told = json.loads(good.stdout)
        validator.validate(told)
        assert (told["schema"], told["ready"]) == ("tailbite.wait/1", True)
        assert [target["saw"] for target in told["targets"]] == ["ready"] * 3

        bad = run("--json", f"smtp://{ssh}", f"mysql://{smtp}", DEAD, "--timeout", "0")
        assert bad.returncode == 1
        told = json.loads(bad.stdout)
        validator.validate(told)
        assert told["ready"] is False
        assert [target["saw"] for target in told["targets"]] == ["wrong-protocol", "wrong-protocol", "refused"]
        assert told["targets"][0]["target"] == f"{ssh} (smtp)"
        assert told["targets"][0]["detail"] == r'looks like SSH: "SSH-2.0-x\r\n"'
        assert f"  {smtp} (mysql): wrong protocol (looks like SMTP: " in bad.stderr


@pytest.mark.usefixtures("network")
def test_options_choose_the_protocol_of_plain_targets() -> None:
    with greeter(b"SSH-2.0-x\r\n") as ssh, greeter(b"HTTP/1.1 204 x\r\n\r\n") as http:
        assert run("--ssh", ssh, "--timeout", "0").returncode == 0
        assert run("--banner", r"SSH-2\x2e0", ssh, "--timeout", "0").returncode == 0
        assert run("--send", r"hi\r\n", "--expect", "SSH", ssh, "--timeout", "0").returncode == 0
        assert run("--http", "/", http, "--timeout", "0").returncode == 0
        assert run("--http", "/", "--status", "204", http, "--timeout", "0").returncode == 0
        assert run("--http", "/", "--status", "300-399", http, "--timeout", "0").returncode == 1
        for wrong in (["--postgres"], ["--redis"], ["--mysql"], ["--smtp"], ["--tls"], ["--tls", "--redis"]):
            assert "wrong protocol (looks like SSH" in run(*wrong, ssh, "--timeout", "0").stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nothing to wait for"),
        (["db"], "is not HOST:PORT"),
        (["db:1", "--"], "there is no command after --"),
        (["db:1", "--redis", "--ssh"], "--redis and --ssh: a server speaks one protocol"),
        (["redis://db", "--redis"], "the URLs name their protocol"),
        (["db:1", "--send", "x"], "--send and --expect belong together"),
        (["db:1", "--status", "200"], "--status belongs to --http, or to"),
        (["db:1", "--http", "/", "--status", "2xx"], "'2xx' is not a valid HTTP status"),
        (["db:1", "--http", "/", "--status", "300-200"], "is not a valid HTTP status"),
        (["db:1", "--http", "up"], "must begin with /"),
        (["db:1", "--banner", ""], "it would accept every server"),
        (["db:1", "--banner", r"\xzz"], "has an escape that is not a byte"),
        (["db:1", "--timeout", "-1"], "duration"),
        (["db:1", "--interval", "0"], "--interval must be more than 0 seconds"),
        (["db:1", "--timeout", "10x"], "'10x'"),
        (["db:1", "-t", ""], "duration"),
        (["db:1", "--patience", "never"], "--attempt-timeout must be more than 0 seconds, and have an end"),
        (["db:1", "--reuseaddr"], "--reuseaddr belongs to --free"),
        (["--free", "web"], "'web' is not a valid port or HOST:PORT"),
        (["--free", "0"], "'0' is not a valid port or HOST:PORT"),
        (["--free", "::1:80"], "write an IPv6 address like [::1]:8080"),
        (["db:1", "--http", "/", "--status", "200,2xx"], "'200,2xx' is not a valid HTTP status"),
        (["redis://app@db"], "Redis takes a user with a password only"),
        (
            ["postgres://db/shop?user=app&password=secret"],
            "would not be sent; write it before the host, as in postgres://",
        ),
        (["jdbc:mysql://db/shop?user=app&PASSWORD=secret"], "would not be sent; no login is tried: leave it out"),
        (["redis+unix:///run/x?password=secret"], "write --redis /run/app.sock"),
        (["mysql://app:secret@db/shop"], "the password would not be sent, because no login is tried"),
        (["tcp://u:secret@db:1"], "leave it out, as in tcp://u@db:1"),
        (["tcp://db:1", "--status", "200"], "--status belongs to --http, or to an http:// or https:// URL"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(arguments: list[str], says: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "secret" not in done.stderr
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("network")
def test_a_terminal_shows_each_target_while_it_waits_and_colour_is_gone_in_a_pipe() -> None:
    ours, theirs = pty.openpty()
    with greeter() as server:
        process = subprocess.Popen(
            [*WAIT, server, DEAD, "--timeout", "5"],
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        )
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the terminal's last user has gone
            while chunk := os.read(ours, 4096):
                shown += chunk
        assert process.wait(60) == 1
        os.close(ours)
        text = shown.decode()
        assert "\x1b[" in text
        assert f"{server}: ready" in text
        assert f"{DEAD}: refused" in text
        assert "\x1b" not in run(server, DEAD, "--timeout", "0").stderr


_AS_NOBODY = """
import ipaddress, os, sys
import tailbite.cli.group, tailbite.cli.wait, tailbite.cli.show.wait  # before setuid
import tailbite.readiness.sync, tailbite.verify
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(tailbite.cli.group.tailbite(["wait", *sys.argv[1:]]))
"""


@pytest.mark.usefixtures("network")
def test_an_ordinary_user_can_wait() -> None:
    if os.geteuid() != 0 or "4294967295" not in Path("/proc/self/uid_map").read_text():
        pytest.skip("this is an ordinary user already")
    Trap().set().control()
    as_nobody = [sys.executable, "-c", _AS_NOBODY]
    bad = subprocess.run([*as_nobody, DEAD, "--timeout", "0"], capture_output=True, text=True, timeout=60)
    assert bad.returncode == 1
    assert bad.stderr.endswith(f"  {DEAD}: refused\n"), bad.stderr
    with greeter(b"+PONG\r\n", 5000) as server:
        good = subprocess.run([*as_nobody, "--redis", server], capture_output=True, text=True, timeout=60)
        assert good.returncode == 0, good.stderr


class Website:
    """A server for HTTP/1.1 that remembers the requests; "/private" wants basic authentication."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    def answer(self, request: bytes) -> bytes:
        self.requests.append(request)
        if request.startswith(b"GET /private ") and b"Authorization: Basic dMO2bTpwYTpzcw==" not in request:
            return b"HTTP/1.1 401 Unauthorized\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\n\r\n"


@contextlib.contextmanager
def conversing(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """A server that answers what it receives and closes; gives HOST:PORT."""
    with socket.create_server(("127.0.0.1", 0)) as sock:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with sock.accept()[0] as connection, contextlib.suppress(OSError):
                        connection.sendall(answer(connection.recv(4096)))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{sock.getsockname()[1]}"
        sock.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.usefixtures("network")
def test_a_status_counts_for_urls_too() -> None:
    with conversing(Website().answer) as web:
        assert run(f"http://{web}/private", "-t", "0").returncode == 1
        assert run("--status", "401", f"http://{web}/private", "-t", "0").returncode == 0
        assert run(f"http://{web}/private", "--status", "400-499", "-t", "0").returncode == 0
        wrong = run("--status", "401", f"http://{web}/", "-t", "0")
        assert (wrong.returncode, "answers 200 OK, not 401" in wrong.stderr) == (1, True)


@pytest.mark.usefixtures("network")
def test_the_credentials_of_a_url_are_sent_and_never_shown() -> None:
    site = Website()
    with conversing(site.answer) as web:
        good = run(f"http://t%C3%B6m:pa%3Ass@{web}/private", "-t", "0", "--json")
        assert good.returncode == 0
        assert "ss" not in good.stdout + good.stderr  # the end of the password
        bad = run(f"http://tom:secret@{web}/private", "-t", "0", "--json")
        assert bad.returncode == 1
        assert "/private answers 401 Unauthorized, not 200-399" in bad.stderr
        assert "secret" not in bad.stderr + bad.stdout
    assert [request.count(b"Authorization") for request in site.requests] == [1, 1]


@pytest.mark.usefixtures("network")
def test_a_server_that_accepts_and_closes_is_not_ready_and_one_that_holds_or_speaks_is() -> None:
    with conversing(lambda _: b"") as holds, greeter(b"hello") as speaks:
        assert run(holds, speaks, "-t", "0").returncode == 0
    with socket.create_server(("127.0.0.1", 0)) as sock:
        stop = threading.Event()

        def refuse() -> None:
            how = [0, 1]
            while not stop.is_set():
                connection, _ = sock.accept()
                linger = how[0].to_bytes(4, "little") + bytes(4)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)  # with FIN, then with RST
                connection.close()
                how.reverse()

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        proxy = "{}:{}".format(*sock.getsockname())
        for _ in range(2):
            assert run(proxy, "-t", "0").stderr.endswith(f"  {proxy}: accepted, then closed\n")
        stop.set()
        socket.create_connection(sock.getsockname()).close()
        thread.join()


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"<!DOCTYPE HTML>\n<html>Bad request syntax</html>"]
)
def test_plain_http_on_an_https_port_is_called_so(answer: bytes) -> None:
    with conversing(lambda _: answer) as web:
        done = run(f"https://{web}/", "-t", "0")
        assert done.returncode == 1
        assert "wrong protocol (plain HTTP, no TLS: " in done.stderr


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("spelling", [["--timeout", "300ms"], ["-t", "0.3"], ["-t0.3s"], ["--timeout=0.005m"]])
def test_times_are_written_as_in_every_other_command(spelling: list[str]) -> None:
    done = run("127.0.0.1:1", *spelling, "--interval", "50ms", "--patience", "1m")
    assert done.returncode == 1
    assert "tailbite: not ready after 0.3 s:\n" in done.stderr


@pytest.mark.usefixtures("network")
def test_a_single_try_is_reported_once() -> None:
    assert run("127.0.0.1:1", "--timeout", "0").stderr == "tailbite: not ready at once:\n  127.0.0.1:1: refused\n"
