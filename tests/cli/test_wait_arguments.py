"""The arguments of ``tailbite wait``: certificates are checked when asked for, and the answer names their fault."""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from tailbite.cli import wait
from tailbite.cli.wait_arguments import TIME, Statuses, read_statuses

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def secure_web(certificate: Path) -> Iterator[int]:
    """A server for HTTPS with that certificate; gives its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = server.accept()[0]
                    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                        secure.recv(4096)
                        secure.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.usefixtures("network")
def test_a_certificate_is_checked_when_asked_for_and_its_fault_is_named(certificate: Path) -> None:
    def answer(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(wait.command, ["-t", "0", *arguments], standalone_mode=False)
        assert result.exception is None, result.exception
        return result.return_value, result.stderr

    with secure_web(certificate) as port:
        assert answer(f"https://localhost:{port}/")[0] == 0
        assert answer("--cacert", str(certificate), f"https://localhost:{port}/")[0] == 0
        assert answer("--cacert", str(certificate), "--http", "/", "--tls", f"localhost:{port}")[0] == 0
        status, said = answer("--check-certificate", f"https://localhost:{port}/")
        assert (status, "not ready (its certificate is not trusted: self" in said) == (1, True), said
        status, said = answer("--cacert", str(certificate), f"tls://127.0.0.1:{port}")
        assert (status, "IP address mismatch" in said) == (1, True), said


@pytest.mark.parametrize("text", ["never", "inf", " INF "])
def test_a_wait_may_have_no_end(text: str) -> None:
    assert TIME.convert(text, None, None) == math.inf


def read(text: str) -> range | Statuses | None:
    return read_statuses(click.Context(wait.command), wait.command.params[0], text)


@pytest.mark.parametrize(("text", "statuses"), [("204", range(204, 205)), ("200-299", range(200, 300))])
def test_statuses_are_one_or_a_range(text: str, statuses: range) -> None:
    assert read(text) == statuses


def test_statuses_are_a_list_which_is_shown_as_it_was_written() -> None:
    statuses = read("204, 300-302")
    assert isinstance(statuses, Statuses)
    assert sorted(statuses) == [204, 300, 301, 302]
    assert str(statuses) == "204, 300-302"


@pytest.mark.parametrize("text", ["", "200,", ",200", "2xx", "99", "600", "200-", "300-200", "+200", "2 00"])
def test_what_is_not_a_status_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a valid HTTP status"):
        read(text)
