"""Each verifier accepts its real server, and refuses all the others, an echo server and a mute one."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import smtplib
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import anyio
import pytest

import tailbite
from conftest import CI, find_peer
from support import servers
from support.servers import HOST
from tailbite import verify
from tailbite.errors import NamespaceUnavailable
from tailbite.kernel import namespace
from tailbite.readiness.status import Readiness, TargetStatus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

# Below the ephemeral range: nothing here is about self-connects, and none must disturb a test.
PORTS = {
    "postgres": 20001,
    "postgres with tls": 20002,
    "redis": 20003,
    "redis with a password": 20004,
    "mariadb": 20005,
    "sshd": 20006,
    "nginx": 20007,
    "nginx with tls": 20008,
    "nginx that wants a certificate": 20009,
    "smtp": 20010,
    "echo": 20011,
    "mute": 20012,
}
TLS_SERVERS = {"nginx with tls", "nginx that wants a certificate"}
ACCEPTS: dict[str, tuple[verify.Verifier, set[str]]] = {
    "postgres": (verify.postgres, {"postgres", "postgres with tls"}),
    "redis": (verify.redis, {"redis", "redis with a password"}),
    "mysql": (verify.mysql, {"mariadb"}),
    "ssh": (verify.ssh, {"sshd"}),
    "smtp": (verify.smtp, {"smtp"}),
    "http": (verify.http("/"), {"nginx"}),
    "tls": (verify.tls, TLS_SERVERS),
    "https": (verify.tls(verify.http("/")), {"nginx with tls"}),
    "banner": (verify.banner(b"SSH-2.0-OpenSSH"), {"sshd"}),
    "send-expect": (verify.send_expect(b"ECHO hi\r\n", b"$2\r\nhi\r\n"), {"redis"}),
}


@contextlib.contextmanager
def answering(port: int, *, echo: bool) -> Iterator[None]:
    """A server that sends back what it gets, or says nothing at all."""
    listener = socket.create_server((HOST, port))
    kept: list[socket.socket] = []

    def talk(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            while echo and (data := sock.recv(65536)):
                sock.sendall(data)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                if echo:
                    threading.Thread(target=talk, args=(sock,), daemon=True).start()
                else:
                    kept.append(sock)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for sock in (listener, *kept):
            sock.close()


@pytest.fixture(scope="module", autouse=True)
def everything(certificate: Path) -> Iterator[None]:
    """All the servers, in a network namespace that this module's tests run in."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(namespace.fresh_network())
        except NamespaceUnavailable as error:
            if CI:
                raise
            pytest.skip(str(error))
        root = stack.enter_context(servers.folder())

        def place(name: str) -> Path:
            path = root / name.replace(" ", "-")
            path.mkdir()
            path.chmod(0o777)
            return path

        def start(name: str, command: list[str]) -> None:
            stack.enter_context(servers.run(command, PORTS[name], root / f"{name}.log"))

        pem = root / "both.pem"
        shutil.copy(certificate, pem)
        pem.chmod(0o600)
        with contextlib.suppress(PermissionError):
            shutil.chown(pem, 65534, 65534)
        p = PORTS
        start("postgres", servers.postgres(find_peer, place("pg"), p["postgres"]))
        start("postgres with tls", servers.postgres(find_peer, place("pgs"), p["postgres with tls"], pem))
        start("redis", servers.redis(find_peer, place("redis"), p["redis"]))
        locked = ("--requirepass", "secret")
        start("redis with a password", servers.redis(find_peer, place("redis2"), p["redis with a password"], *locked))
        start("mariadb", servers.mariadb(find_peer, place("mariadb"), p["mariadb"]))
        start("sshd", servers.sshd(find_peer, place("ssh"), p["sshd"]))
        tls_ports = (p["nginx"], p["nginx with tls"], p["nginx that wants a certificate"])
        start("nginx", servers.nginx(find_peer, place("nginx"), *tls_ports, certificate))
        start("smtp", servers.aiosmtpd(p["smtp"]))
        stack.enter_context(answering(p["echo"], echo=True))
        stack.enter_context(answering(p["mute"], echo=False))
        yield


def ask_all(verifier: verify.Verifier, patience: float) -> dict[str, Readiness]:
    """Ask all servers at once."""
    targets = [(HOST, port) for port in PORTS.values()]
    try:
        seen = tailbite.wait(*targets, verify=verifier, timeout=0, patience=patience)
    except tailbite.NotReadyError as error:
        seen = error.targets  # type: ignore[assignment]
    return dict(zip(PORTS, seen, strict=True))


@pytest.mark.parametrize("name", ACCEPTS)
def test_a_verifier_accepts_its_server_and_refuses_the_others(name: str) -> None:
    """A server that seems silent may only be slow on a busy machine: so it is asked again with more patience."""
    for patience in (2.5, 10.0):
        with contextlib.suppress(AssertionError):
            check_answers(name, patience)
            return
    check_answers(name, 40.0)


def check_answers(name: str, patience: float) -> None:
    verifier, own = ACCEPTS[name]
    seen = ask_all(verifier, patience)
    assert {server for server, readiness in seen.items() if readiness.ready} == own
    asks = name not in ("mysql", "ssh", "smtp", "banner")
    assert seen["echo"].status is (TargetStatus.ECHO if asks else TargetStatus.SILENT)
    assert seen["mute"].status is TargetStatus.SILENT
    assert {readiness.status for readiness in seen.values() if not readiness.ready} <= {
        TargetStatus.ECHO,
        TargetStatus.SILENT,
        TargetStatus.CLOSED,
        TargetStatus.WRONG_PROTOCOL,
        TargetStatus.NOT_READY,
    }
    if "sshd" not in own:
        assert seen["sshd"].status is TargetStatus.WRONG_PROTOCOL
        assert seen["sshd"].detail.startswith('looks like SSH: "SSH-2.0-OpenSSH_')
    if "smtp" not in own:
        assert seen["smtp"].detail.startswith("looks like SMTP: ")
    if "mariadb" not in own:
        assert seen["mariadb"].detail.startswith("looks like MySQL: ")


def connected(name: str, verifier: verify.Verifier) -> socket.socket:
    """Return the first verified connection of the reconnecting loop."""
    for connection in tailbite.connections((HOST, PORTS[name]), verify=verifier, deadline=60):
        with connection as sock:
            return sock.dup()
    raise AssertionError("no connection")


def test_what_was_read_to_verify_is_still_there_for_the_caller() -> None:
    """Real clients on the verified connection: nothing was swallowed."""
    with connected("sshd", verify.ssh) as sock:
        assert sock.recv(8) == b"SSH-2.0-"
    with connected("smtp", verify.smtp) as sock, smtplib.SMTP() as client:
        client.sock = sock
        assert client.getreply()[0] == 220
        assert client.ehlo("tailbite.example")[0] == 250
    with connected("mariadb", verify.mysql) as sock:
        greeting = sock.recv(4096)
        assert greeting[4] == 10
        assert b"MariaDB" in greeting
    with connected("redis", verify.redis) as sock:
        sock.sendall(b"ECHO after\r\n")
        assert sock.recv(100) == b"$5\r\nafter\r\n"
    with connected("redis with a password", verify.redis) as sock:
        sock.sendall(b"AUTH secret\r\n")
        assert sock.recv(100) == b"+OK\r\n"
    with connected("nginx", verify.http("/")) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    for server in ("postgres", "postgres with tls"):
        with connected(server, verify.postgres) as sock:
            sock.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")  # SSLRequest: a fresh connection is asked for one
            assert sock.recv(10) == (b"S" if "tls" in server else b"N")


def test_in_asyncio_and_trio_nothing_is_swallowed_either() -> None:
    import tailbite.anyio

    async def with_asyncio() -> None:
        async for connection in tailbite.aio.connections((HOST, PORTS["sshd"]), verify=verify.ssh):
            async with connection as (reader, _):
                assert (await reader.readline()).startswith(b"SSH-2.0-OpenSSH_")
                break
        async for connection in tailbite.aio.connections((HOST, PORTS["redis"]), verify=verify.redis):
            async with connection as (reader, writer):
                writer.write(b"ECHO after\r\n")
                assert await reader.readexactly(11) == b"$5\r\nafter\r\n"
                break

    async def with_trio() -> None:
        async for connection in tailbite.anyio.connections((HOST, PORTS["smtp"]), verify=verify.smtp):
            async with connection as stream:
                assert (await stream.receive()).startswith(b"220 ")
                break
        async for connection in tailbite.anyio.connections((HOST, PORTS["nginx"]), verify=verify.http("/")):
            async with connection as stream:
                await stream.send(b"GET / HTTP/1.0\r\n\r\n")
                assert (await stream.receive()).startswith(b"HTTP/1.1 200 OK")
                break

    asyncio.run(with_asyncio())
    anyio.run(with_trio, backend="trio")


# The right server, but not now


def refusal(verifier: verify.Verifier, name: str) -> str:
    with pytest.raises(tailbite.NotReadyError) as missed:
        tailbite.wait((HOST, PORTS[name]), verify=verifier, timeout=0, patience=60)
    (readiness,) = missed.value.targets
    assert isinstance(readiness, Readiness)
    assert readiness.status is TargetStatus.NOT_READY
    return readiness.detail


def test_a_server_that_answers_503_is_not_ready() -> None:
    assert refusal(verify.http("/down"), "nginx") == "/down answers 503 Service Temporarily Unavailable, not 200-399"


def test_a_redis_that_is_busy_with_a_script_is_not_ready() -> None:
    with socket.create_connection((HOST, PORTS["redis"])) as busy:
        busy.sendall(b"CONFIG SET busy-reply-threshold 50\r\nEVAL 'while true do end' 0\r\n")
        with socket.create_connection((HOST, PORTS["redis"])) as doctor:
            doctor.settimeout(100)
            doctor.sendall(b"PING\r\n")
            assert doctor.recv(100).startswith(b"-BUSY")  # it answers this late, and only when it is busy
            try:
                assert refusal(verify.redis, "redis").startswith("BUSY Redis is busy running a script.")
            finally:
                doctor.sendall(b"SCRIPT KILL\r\n")
                assert doctor.recv(100) == b"+OK\r\n"
    tailbite.wait((HOST, PORTS["redis"]), verify=verify.redis, timeout=100)


def test_a_mariadb_without_room_is_not_ready() -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(160):  # max_connections is 151
            stack.enter_context(socket.create_connection((HOST, PORTS["mariadb"])))
        assert refusal(verify.mysql, "mariadb") == "error 1040: Too many connections"
    tailbite.wait((HOST, PORTS["mariadb"]), verify=verify.mysql, timeout=100)


@contextlib.contextmanager
def until_greeted(port: int) -> Iterator[None]:
    """Hold the one place that there is, once sshd has noticed that those before us have left it."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        with socket.create_connection((HOST, port)) as sock:
            if sock.recv(8) == b"SSH-2.0-":
                yield
                return
    raise AssertionError("sshd has no place")


def test_an_sshd_without_room_is_not_ready() -> None:
    port = 20020
    with servers.folder() as at:
        command = servers.sshd(find_peer, at, port, "MaxStartups=1")
        with servers.run(command, None, at / "log"):
            tailbite.wait((HOST, port), verify=verify.ssh, timeout=100)
            with until_greeted(port):
                with pytest.raises(tailbite.NotReadyError, match=r"not ready \(Exceeded MaxStartups"):
                    tailbite.wait((HOST, port), verify=verify.ssh, timeout=0, patience=60)


def test_a_postgres_that_is_shutting_down_is_not_ready_though_it_answers_ssl_requests() -> None:
    """As pg_isready says too; an answer to an SSLRequest alone would have been enough."""
    port = 20021
    with servers.folder() as at:
        command = servers.postgres(find_peer, at, port)
        with servers.run(command, port, at / "log") as process:
            tailbite.wait(f"postgres://{HOST}:{port}", timeout=100)
            client = [find_peer("psql"), f"postgresql://postgres:secret@{HOST}:{port}/postgres", "-Atc"]
            with subprocess.Popen([*client, r"select 'in', pg_sleep(60)"]):
                try:
                    wait_until_logged_in(client)
                    process.send_signal(signal.SIGTERM)  # "smart": it waits for the session
                    readiness = until_not_ready(port)
                    assert readiness.detail == "the database system is shutting down"
                    with socket.create_connection((HOST, port)) as naive:
                        naive.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")
                        assert naive.recv(1) == b"N"
                finally:
                    process.send_signal(signal.SIGINT)  # "fast": it ends the session


@pytest.mark.parametrize("server", ["postgres", "postgres with tls"])
def test_the_password_of_a_postgres_url_is_used(server: str) -> None:
    where = f"{HOST}:{PORTS[server]}"
    (ready,) = tailbite.wait(f"postgres://postgres:secret@{where}/postgres", timeout=100)
    assert ready.ready
    for url, says in (
        (f"postgres://postgres:wrong@{where}", 'password authentication failed for user "postgres"'),
        (f"postgres://nobody:secret@{where}", 'password authentication failed for user "nobody"'),
    ):
        with pytest.raises(tailbite.NotReadyError) as missed:
            tailbite.wait(url, timeout=0, patience=60)
        assert says in str(missed.value)
        assert "not ready" in str(missed.value)


def test_the_password_of_a_redis_url_is_used() -> None:
    port, user = 20023, ["--user", "app", "on", ">pw", "+ping", "~*"]
    with servers.folder() as at:
        command = servers.redis(find_peer, at, port, "--requirepass", "sec ret", *user)
        with servers.run(command, port, at / "log"):
            for credentials in (":sec%20ret@", "default:sec%20ret@", "app:pw@", ""):
                (ready,) = tailbite.wait(f"redis://{credentials}{HOST}:{port}/0", timeout=100)
                assert ready.ready
            for credentials in (":wrong@", "app:wrong@", "nobody:pw@"):
                with pytest.raises(tailbite.NotReadyError, match="WRONGPASS"):
                    tailbite.wait(f"redis://{credentials}{HOST}:{port}/0", timeout=0, patience=60)
    (ready,) = tailbite.wait(f"redis://:unneeded@{HOST}:{PORTS['redis']}", timeout=100)  # it has no password
    assert ready.ready


def wait_until_logged_in(client: list[str]) -> None:
    deadline = time.monotonic() + 100
    query = "select count(*) from pg_stat_activity where query like '%pg_sleep(60)%' and pid <> pg_backend_pid()"
    while time.monotonic() < deadline:
        if subprocess.run([*client, query], capture_output=True, text=True).stdout.strip() == "1":
            return
    raise AssertionError("the session did not begin")


def until_not_ready(port: int) -> Readiness:
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        try:
            tailbite.wait(f"postgres://{HOST}:{port}", timeout=0, patience=60)
        except tailbite.NotReadyError as error:
            (readiness,) = error.targets
            assert isinstance(readiness, Readiness)
            return readiness
    raise AssertionError("it took logins all the time")


def test_the_loop_says_why_a_real_server_is_not_believed() -> None:
    with pytest.raises(tailbite.GaveUpError) as gave_up:
        connected("sshd", verify.postgres)
    assert "looks like SSH" in str(gave_up.value)
