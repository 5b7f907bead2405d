"""Real programs under ``tailbite run``: each never reaches itself, beside a control that does, and finds its server.

Every segment on ``lo`` is looked at, so a self-connect that lasts a millisecond counts like any other.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from support.guarded import NOBODY, PYTHON, RUN, needs_another_user, wait_until
from support.trap import PORT, Trap
from support.users import open_to_all
from tailbite.kernel.capture import Capture
from tailbite.kernel.namespace import fresh_network
from tailbite.kernel.packets import TcpFlags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.peers

ATTEMPTS = 5
DEADLINE = 90.0


@dataclass(frozen=True)
class Client:
    """A program that connects to 127.0.0.1:PORT again and again.

    Attributes:
        needs: programs that must be installed, separated by spaces.
        line: a shell command; {P} is the port, {D} a folder of its own, {C} what was compiled.
        once: it connects once, so it is started over and over.
        source: what to compile.
        binds_first: it binds before it connects, so it meets another trap.
        files: written into {D} before.
        beside: a shell command that runs along with it, unguarded, such as the user of a proxy.
        as_nobody: it refuses to run as root.
    """

    needs: str
    line: str
    once: bool = True
    source: str | None = None
    binds_first: bool = False
    files: tuple[tuple[str, str], ...] = ()
    beside: str | None = None
    as_nobody: bool = False


def _code(interpreter: str, option: str, code: str) -> str:
    return f"{interpreter} {option} {shlex.quote(code.strip())}"


_ASYNCIO = """
import asyncio, sys
async def main():
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", {P})
            await asyncio.sleep(0.2)
            writer.close()
        except OSError:
            await asyncio.sleep(0.02)
"""

_PGBOUNCER = """
[databases]
app = host=127.0.0.1 port={P} user=app password=app
[pgbouncer]
listen_addr =
unix_socket_dir = {D}
listen_port = 6432
auth_type = any
server_login_retry = 0.05
server_connect_timeout = 0.3
logfile =
"""

_HAPROXY = """
defaults
  mode tcp
  timeout connect 500ms
  timeout client 1s
  timeout server 1s
listen front
  bind unix@{D}/tcp
  server back 127.0.0.1:{P} check inter 50ms
"""

_NGINX = """
user root;
daemon off;
master_process off;
pid {D}/nginx.pid;
error_log /dev/null;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {D}/a; proxy_temp_path {D}/b; fastcgi_temp_path {D}/c;
  uwsgi_temp_path {D}/d; scgi_temp_path {D}/e;
  server {{
    listen unix:{D}/http;
    location / {{ proxy_pass http://127.0.0.1:{P}; proxy_read_timeout 300ms; }}
  }}
}}
"""

_PROMETHEUS = """
global: {{scrape_interval: 300ms, scrape_timeout: 300ms}}
scrape_configs:
- {{job_name: it, static_configs: [{{targets: ["127.0.0.1:{P}"]}}]}}
"""

_NODE = """
const net = require("net");
(function again() {{
  const socket = net.connect({P}, "127.0.0.1");
  socket.setTimeout(200, () => socket.destroy());
  socket.on("error", () => {{}});
  socket.on("close", () => setTimeout(again, 20));
}})();
"""

CLIENTS = {
    "telnet": Client("telnet", "timeout --foreground 30 telnet 127.0.0.1 {P}"),
    "nc.openbsd": Client("nc.openbsd", "timeout --foreground 30 nc.openbsd -w 1 127.0.0.1 {P}"),
    "nc.openbsd -s": Client(
        "nc.openbsd", "timeout --foreground 30 nc.openbsd -s 127.0.0.1 -w 1 127.0.0.1 {P}", binds_first=True
    ),
    "ncat": Client("ncat", "timeout --foreground 30 ncat 127.0.0.1 {P}"),
    "socat": Client("socat", "socat -t 0.2 - TCP:127.0.0.1:{P},forever,interval=0.02"),
    "curl": Client("curl", "curl -s -m 0.5 http://127.0.0.1:{P}/"),
    # It binds with IP_BIND_ADDRESS_NO_PORT, so its port is chosen by connect(2) all the same.
    "curl --interface": Client("curl", "curl -s -m 0.5 --interface 127.0.0.1 http://127.0.0.1:{P}/"),
    "wget": Client("wget", "wget -q -t 1 -T 0.5 -O - http://127.0.0.1:{P}/"),
    "ssh": Client(
        "ssh",
        "timeout --foreground 30 ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=no -p {P} 127.0.0.1 true",
    ),
    "psql": Client("psql", "PGCONNECT_TIMEOUT=20 timeout --foreground 30 psql -h 127.0.0.1 -p {P} -U x -c ''"),
    "redis-cli": Client("redis-cli", "timeout --foreground 30 redis-cli -h 127.0.0.1 -p {P} ping"),
    "mysql": Client(
        "mysql", "timeout --foreground 30 mysql -h 127.0.0.1 -P {P} -u x --connect-timeout=20 -e 'select 1'"
    ),
    "bash": Client("bash", "timeout --foreground 30 bash -c 'exec 3<>/dev/tcp/127.0.0.1/{P} && sleep 0.2'"),
    "busybox nc": Client("busybox", "timeout --foreground 30 busybox nc -w 1 127.0.0.1 {P}"),
    "Go net.Dial": Client("go", "{C} dial {P}", once=False, source="client.go"),
    "Go with LocalAddr": Client("go", "{C} bound {P}", once=False, source="client.go", binds_first=True),
    "Go raw connect": Client("go", "{C} raw {P}", once=False, source="client.go"),
    "Java Socket": Client("javac java", "{C} socket {P}", once=False, source="Client.java"),
    "Java NIO": Client("javac java", "{C} nio {P}", once=False, source="Client.java"),
    "Rust": Client("rustc", "{C} {P}", once=False, source="client.rs"),
    "C threads": Client("cc", "{C} threads {P}", once=False, source="client.c"),
    "C the same socket again": Client("cc", "{C} again {P}", once=False, source="client.c"),
    "C MSG_FASTOPEN": Client("cc", "{C} fastopen {P}", once=False, source="client.c"),
    "C sendmsg MSG_FASTOPEN": Client("cc", "{C} message {P}", once=False, source="client.c"),
    "C sendmmsg MSG_FASTOPEN": Client("cc", "{C} messages {P}", once=False, source="client.c"),
    "C TCP_FASTOPEN_CONNECT": Client("cc", "{C} deferred {P}", once=False, source="client.c"),
    "C MPTCP": Client("cc", "{C} mptcp {P}", once=False, source="client.c"),
    "C between other sockets": Client("cc", "{C} mixed {P}", once=False, source="client.c"),
    "node": Client("node", _code("node", "-e", _NODE), once=False),
    "ruby": Client(
        "ruby",
        _code(
            "ruby",
            "-rsocket -e",
            'loop {{ begin; s = TCPSocket.new("127.0.0.1", {P}); sleep 0.2; s.close; rescue SystemCallError; end;'
            " sleep 0.02 }}",
        ),
        once=False,
    ),
    "perl": Client(
        "perl",
        _code(
            "perl",
            "-MIO::Socket::INET -e",
            'while (1) {{ my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:{P}");'
            " select(undef, undef, undef, $s ? 0.2 : 0.02) }}",
        ),
        once=False,
    ),
    "php": Client(
        "php",
        _code(
            "php",
            "-r",
            'while (true) {{ $s = @fsockopen("127.0.0.1", {P}, $n, $t, 1); usleep($s ? 200000 : 20000);'
            " if ($s) fclose($s); }}",
        ),
        once=False,
    ),
    "asyncio": Client(PYTHON, _code(PYTHON, "-c", _ASYNCIO + "asyncio.run(main())"), once=False),
    "uvloop": Client(
        sys.executable,
        _code(sys.executable, "-c", _ASYNCIO + "import uvloop; uvloop.install(); asyncio.run(main())"),
        once=False,
    ),
    "pgbouncer": Client(
        "pgbouncer psql",
        "pgbouncer {D}/pgbouncer.ini",
        once=False,
        files=(("pgbouncer.ini", _PGBOUNCER),),
        beside="PGCONNECT_TIMEOUT=20 timeout --foreground 30 psql -h {D} -p 6432 -U app -d app -c 'select 1'",
        as_nobody=True,
    ),
    "haproxy": Client("haproxy", "haproxy -db -f {D}/haproxy.cfg", once=False, files=(("haproxy.cfg", _HAPROXY),)),
    "nginx": Client(
        "nginx curl",
        "nginx -p {D} -c {D}/nginx.conf",
        once=False,
        files=(("nginx.conf", _NGINX),),
        beside="curl -s -m 0.5 --unix-socket {D}/http http://it/",
    ),
    "prometheus": Client(
        "prometheus",
        "prometheus --config.file={D}/prometheus.yml --storage.tsdb.path={D}/data "
        "--web.listen-address=127.0.0.1:9090 --log.level=error",
        once=False,
        files=(("prometheus.yml", _PROMETHEUS),),
    ),
}


@dataclass
class Seen:
    """The segments on the wire, counted."""

    attempts: int = 0
    to_itself: int = 0
    answered: int = 0


class Wire:
    """Counts SYNs to PORT, those whose source is their destination, and what a server answered.

    A server's accept(2) does not see every client: HAProxy's health check resets before the third segment.
    """

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self.seen = Seen()

    def until(self, is_enough: Callable[[Seen], bool], what: str) -> Seen:
        end = monotonic() + DEADLINE
        while not is_enough(self.seen):
            assert monotonic() < end, f"waited {DEADLINE} s until {what}: {self.seen}"
            for segment in self._capture.segments(0.1):
                opening = segment.flags & (TcpFlags.SYN | TcpFlags.ACK)
                if segment.destination.port == PORT and opening == TcpFlags.SYN:
                    self.seen.attempts += 1
                    self.seen.to_itself += segment.is_to_itself
                elif segment.source.port == PORT and opening == TcpFlags.SYN | TcpFlags.ACK:
                    self.seen.answered += not segment.is_to_itself
        return self.seen


@contextlib.contextmanager
def started(
    client: Client, folder: Path, compiled: Callable[[str], list[str]], guard: tuple[str, ...]
) -> Iterator[None]:
    """Start the client, in a session of its own that is killed as a whole at the end."""
    folder.mkdir()
    folder.chmod(0o777)
    fill = {"P": PORT, "D": folder, "C": shlex.join(compiled(client.source)) if client.source else ""}
    for name, content in client.files:
        (folder / name).write_text(content.format(**fill))
    line = client.line.format(**fill)
    if client.once:
        line = f"while :; do ({line}) </dev/null; sleep 0.02; done"
    if client.as_nobody:
        needs_another_user()
    who = NOBODY if client.as_nobody else ()
    lines = [[*who, *guard, "sh", "-c", line]]
    if client.beside:
        beside = client.beside.format(**fill)
        lines.append(["sh", "-c", f"while :; do ({beside}) </dev/null; sleep 0.02; done"])
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "HOME": str(folder)}
    processes = []
    try:
        for arguments in lines:
            processes.append(
                subprocess.Popen(
                    arguments,
                    env=environment,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        yield
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _bind(server: socket.socket, client: Client) -> None:
    """Bind the port without SO_REUSEADDR: at once, unless the client itself binds it now and then for a moment."""
    if client.binds_first:
        wait_until(lambda: not _error_of(server), "the server can bind")
    else:
        server.bind(("127.0.0.1", PORT))


def _error_of(server: socket.socket) -> int | None:
    try:
        server.bind(("127.0.0.1", PORT))
    except OSError as error:
        return error.errno
    return None


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a short name, open to everybody: a Unix socket's path has 107 bytes at most (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="run") as folder:
        open_to_all(Path(folder))
        yield Path(folder)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.needs("MPTCP") if "MPTCP" in name else ()) for name in CLIENTS]
)
@pytest.mark.usefixtures("network")
def test_a_real_program_never_reaches_itself_and_finds_the_server_that_comes(
    name: str, short_path: Path, peer: Callable[[str], str], compiled: Callable[[str], list[str]]
) -> None:
    client = CLIENTS[name]
    for program in client.needs.split():
        peer(program)
    if name == "uvloop":
        pytest.importorskip("uvloop")
    with fresh_network(), Capture() as capture:
        Trap(client.binds_first).set()
        wire = Wire(capture)
        with started(client, short_path / "guarded", compiled, (*RUN, "--require", "--")):
            wire.until(lambda seen: seen.attempts >= ATTEMPTS, "it had tried often enough")
            with socket.socket() as server:
                _bind(server, client)
                server.listen()
                wire.until(lambda seen: seen.answered > 0, "it had found its server")
        assert wire.seen.to_itself == 0

    with fresh_network(), Capture() as capture:
        Trap(client.binds_first).set()
        with started(client, short_path / "control", compiled, ()):
            assert Wire(capture).until(lambda seen: seen.to_itself > 0, "the control reached itself").to_itself > 0


def is_switched_off(program: list[str], mode: str) -> bool:
    """Have the program connect: it ends with status 77 where the kernel does not let it, and tries forever else."""
    with fresh_network(), Capture() as capture, subprocess.Popen([*program, mode, str(PORT)]) as client:
        wire = Wire(capture)
        try:
            wire.until(lambda seen: seen.attempts > 0 or client.poll() is not None, "it had tried")
        finally:
            client.kill()
    return client.returncode == 77


@pytest.mark.parametrize("mode", ["uring", "int80"])
@pytest.mark.usefixtures("network")
def test_named_ports_are_held_for_what_a_filter_cannot_see(
    mode: str, tmp_path: Path, peer: Callable[[str], str], compiled: Callable[[str], list[str]]
) -> None:
    """io_uring and 32-bit calls never reach themselves under --port; without it, as the page says, they do."""
    peer("cc")
    client = Client("cc", f"{{C}} {mode} {{P}}", once=False, source="client.c")
    if is_switched_off(compiled("client.c"), mode):
        pytest.skip(f"{mode} is switched off here")
    for number, (options, expected) in enumerate(((("--port", str(PORT)), False), ((), True))):
        with fresh_network(), Capture() as capture:
            Trap().set()
            with started(client, tmp_path / str(number), compiled, (*RUN, "--require", *options, "--")):
                wire = Wire(capture)
                wire.until(lambda seen: seen.attempts >= ATTEMPTS or seen.to_itself > 0, "it had tried often enough")
        assert (wire.seen.to_itself > 0) == expected
