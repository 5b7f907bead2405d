"""The exporter's pages: metrics, health, passwords, TLS, sockets of systemd, and clients that misbehave."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, Gauge

from conftest import find_peer
from support.guarded import wait_until
from tailbite.watch import http_server
from tailbite.watch.http_server import (
    activated_socket,
    application,
    listening_socket,
    make_server,
    read_passwords,
    tls_context,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("network")


@contextmanager
def served(
    health: str = "",
    passwords: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> Iterator[int]:
    """Serve one gauge; yields the port."""
    registry = CollectorRegistry()
    Gauge("answer", "The answer.", registry=registry).set(42)
    sock = listening_socket(host, 0)
    server = make_server(sock, application(registry, lambda: health, passwords), tls)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def get(url: str, headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers or {})), context=tls) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_pages() -> None:
    with served() as port:
        url = f"http://127.0.0.1:{port}"
        openmetrics = {"Accept": "application/openmetrics-text; version=1.0.0"}
        for headers in ({}, openmetrics):
            code, text = get(f"{url}/metrics", headers)
            assert code == 200
            assert text == "# HELP answer The answer.\n# TYPE answer gauge\nanswer 42.0\n"
        assert get(f"{url}/-/healthy") == (200, "Healthy.\n")
        assert get(f"{url}/")[0] == 200
        assert "/metrics" in get(f"{url}/")[1]
        assert get(f"{url}/else")[0] == 404


def test_an_unhealthy_exporter_says_why() -> None:
    with served(health="The last inspection was 99 s ago.") as port:
        assert get(f"http://127.0.0.1:{port}/-/healthy") == (503, "The last inspection was 99 s ago.\n")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", ""])
def test_addresses(host: str) -> None:
    with served(host=host) as port:
        for name in ["127.0.0.1", "[::1]"] if not host else [f"[{host}]" if ":" in host else host]:
            assert get(f"http://{name}:{port}/metrics")[0] == 200


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def test_only_a_right_password_lets_in() -> None:
    with served(passwords={"prometheus": "s3cret:with:colons", "empty": ""}) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        assert get(url, basic("prometheus:s3cret:with:colons"))[0] == 200
        for wrong in ("prometheus:", "prometheus:s3cret", "nobody:s3cret", "nobody:", "empty:", ":", ""):
            assert get(url, basic(wrong))[0] == 401, wrong
        for header in ("Basic !", "Basic /w==", "Bearer abc", "Basic", ""):
            assert get(url, {"Authorization": header})[0] == 401, header
        assert get(f"http://127.0.0.1:{port}/-/healthy")[0] == 401


def test_a_file_of_passwords(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    path.write_text("# users\n\nprometheus:a:b\n")
    path.chmod(0o600)
    assert read_passwords(path) == {"prometheus": "a:b"}
    path.chmod(0o644)
    with pytest.raises(ValueError, match="600"):
        read_passwords(path)
    path.chmod(0o600)
    for text in ("", "no colon\n", ":password\n", "user:\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="USER:PASSWORD"):
            read_passwords(path)


def openssl(*arguments: str) -> None:
    subprocess.run([find_peer("openssl"), *arguments], check=True, capture_output=True)


def test_files_that_are_not_for_tls_are_named(certificate: Path, tmp_path: Path) -> None:
    text, other, encrypted = (tmp_path / name for name in ("text", "other", "encrypted"))
    text.write_text("not PEM\n")
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(other))
    openssl("ec", "-aes128", "-passout", "pass:x", "-in", str(other), "-out", str(encrypted))
    for files, said in (
        ((text, None), f"{text} is not a certificate and its key, in PEM"),
        ((certificate, text), f"{certificate} is not a certificate, or {text} not its key, in PEM"),
        ((certificate, other), f"the key in {other} is not that of the certificate"),
        ((certificate, encrypted), "the key is encrypted"),
        ((certificate, None, text), f"{text} has no certificate in PEM"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            tls_context(*(None if file is None else str(file) for file in files))  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="missing"):
        tls_context(str(certificate), str(tmp_path / "missing"))


def test_tls_and_client_certificates(certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    with served(tls=tls_context(str(certificate), None)) as port:
        assert get(f"https://localhost:{port}/metrics", tls=trusting)[0] == 200
        with pytest.raises(OSError):
            get(f"http://localhost:{port}/metrics")
        assert get(f"https://localhost:{port}/metrics", tls=trusting)[0] == 200  # a bad client stops nothing
    with served(tls=tls_context(str(certificate), None, str(certificate))) as port:
        with pytest.raises(OSError):
            get(f"https://localhost:{port}/metrics", tls=trusting)
        trusting.load_cert_chain(certificate)
        assert get(f"https://localhost:{port}/metrics", tls=trusting)[0] == 200


def test_silent_clients_do_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_SLOW_CLIENT_S", 0.2)
    monkeypatch.setattr(http_server._Handler, "timeout", 0.2)
    with served() as port:
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]

        def is_answered() -> bool:
            with contextlib.suppress(OSError):  # on a slow machine this client may be too silent as well
                return get(f"http://127.0.0.1:{port}/metrics")[0] == 200
            return False

        wait_until(is_answered, "a client that asks is answered")
        for sock in silent:
            sock.close()


def test_a_socket_of_systemd() -> None:
    code = (
        "import os, sys; from tailbite.watch.http_server import activated_socket\n"
        "os.dup2(int(sys.argv[2]), 3)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[1])\n"
        "try: print(activated_socket().getsockname()[1])\n"
        "except OSError as error: print(error.strerror)\n"
    )
    with socket.create_server(("127.0.0.1", 9745)) as sock, socket.socket() as other:
        for number, passed, says in (
            ("1", sock, "9745"),
            ("1", other, "does not listen"),
            ("2", sock, "takes one"),
        ):
            done = subprocess.run(
                [sys.executable, "-c", code, number, str(passed.fileno())],
                pass_fds=[passed.fileno()],
                capture_output=True,
                text=True,
            )
            assert says in done.stdout, done
    assert activated_socket({}) is None
    assert activated_socket({"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1"}) is None
