"""Real servers from Debian, each in a folder and on ports of its own, in the thread's network namespace.

Those that refuse to run as root run as nobody. That needs a user to change to: root's own namespaces have one, a
user namespace with a single user has not.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["HOST", "aiosmtpd", "folder", "mariadb", "nginx", "postgres", "redis", "run", "sshd"]

HOST = "127.0.0.1"
_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
_START = 60


def _drops_privileges() -> list[str]:
    if os.geteuid() != 0:
        return []
    if "4294967295" not in Path("/proc/self/uid_map").read_text():
        pytest.skip("there is no user to run this server as: root with all users is needed")
    return _NOBODY


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder that nobody may write to and root may too; pytest's own are closed to other users."""
    path = Path(tempfile.mkdtemp(prefix="tailbite-"))
    path.chmod(0o777)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _set_up(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, f"{command}:\n{done.stdout[-1000:]}\n{done.stderr[-1000:]}"


@contextlib.contextmanager
def run(command: list[str], port: int | None, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block; if a port is given, begin when somebody listens on it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )
    try:
        if port is not None:
            wait_for_listener(port, process, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_listener(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when somebody listens; a plain connect is safe where the port is outside the ephemeral range."""
    deadline = time.monotonic() + _START
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port)):
            return
        time.sleep(0.02)
    raise AssertionError(f"{process.args!r} did not listen on {port}:\n{log.read_text(errors='replace')[-2000:]}")


def _postgres_program(name: str) -> str:
    """Debian keeps the server's programs out of PATH, one folder for each version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else name


def postgres(peer: Callable[[str], str], at: Path, port: int, certificate: Path | None = None) -> list[str]:
    """Make a database cluster in ``at``; return the command that serves it."""
    program, user = peer(_postgres_program("postgres")), _drops_privileges()
    data = at / "data"
    (at / "password").write_text("secret\n")
    how = ["-U", "postgres", "-A", "scram-sha-256", "--no-sync", "-E", "UTF8", "--no-locale"]
    _set_up([*user, _postgres_program("initdb"), "-D", str(data), *how, f"--pwfile={at / 'password'}"])
    settings = {"listen_addresses": HOST, "unix_socket_directories": "", "fsync": "off", "max_connections": "20"}
    if certificate is not None:
        settings |= {"ssl": "on", "ssl_cert_file": str(certificate), "ssl_key_file": str(certificate)}
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    return [*user, program, "-D", str(data), "-p", str(port), *options]


def redis(peer: Callable[[str], str], at: Path, port: int, *options: str) -> list[str]:
    """Return the command of an empty Redis."""
    return [peer("redis-server"), "--bind", HOST, "--port", str(port), "--dir", str(at), "--save", "", *options]


def mariadb(peer: Callable[[str], str], at: Path, port: int, *options: str) -> list[str]:
    """Make a database in ``at``; return the command that serves it."""
    program, user = peer("mariadbd"), _drops_privileges()
    common = ["--no-defaults", f"--datadir={at / 'data'}"]
    install = [peer("mariadb-install-db"), *common, "--skip-test-db", "--auth-root-authentication-method=normal"]
    _set_up([*user, *install])
    listens = [f"--bind-address={HOST}", f"--port={port}", f"--socket={at / 'm.sock'}", f"--pid-file={at / 'm.pid'}"]
    return [*user, program, *common, *listens, "--innodb-flush-log-at-trx-commit=0", *options]


def sshd(peer: Callable[[str], str], at: Path, port: int, *options: str) -> list[str]:
    """Make a host key in ``at``; return the command of the server."""
    program = peer("sshd")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # what its unit does; it insists
    key = at / "host_key"
    _set_up([peer("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
    settings = ["UsePAM=no", f"PidFile={at / 'sshd.pid'}", f"ListenAddress={HOST}:{port}", *options]
    return [program, "-D", "-e", "-f", "/dev/null", "-h", str(key)] + [f"-o{setting}" for setting in settings]


def nginx(peer: Callable[[str], str], at: Path, plain: int, tls: int, mutual: int, certificate: Path) -> list[str]:
    """Return the command of an nginx with HTTP, HTTPS, and HTTPS that wants a certificate of the client."""
    user = "user root;" if os.geteuid() == 0 else ""
    paths = "".join(f"{kind}_temp_path {at / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    places = "location / { return 200 ok; } location /down { return 503; }"
    keys = f"ssl_certificate {certificate}; ssl_certificate_key {certificate};"
    (at / "nginx.conf").write_text(f"""
        daemon off; pid {at / "nginx.pid"}; error_log stderr; {user} worker_processes 1;
        events {{ worker_connections 64; }}
        http {{ access_log off; {paths}
          server {{ listen {HOST}:{plain}; {places} }}
          server {{ listen {HOST}:{tls} ssl; {keys} {places} }}
          server {{ listen {HOST}:{mutual} ssl; {keys} ssl_client_certificate {certificate};
                    ssl_verify_client on; ssl_protocols TLSv1.2; {places} }}
        }}
    """)
    return [peer("nginx"), "-p", str(at), "-e", "stderr", "-c", str(at / "nginx.conf")]


def aiosmtpd(port: int) -> list[str]:
    """Return the command of an SMTP server (from PyPI: two of Debian's would exclude each other)."""
    return [sys.executable, "-m", "aiosmtpd", "-n", "-l", f"{HOST}:{port}"]
