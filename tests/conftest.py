"""Isolation of the tests: each process of pytest has a network namespace of its own, each xdist worker its own /proc.

No test can touch the machine's own network, and no test can see the processes of another worker or of the machine.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from support.isolation import worker_command
from tailbite.errors import NamespaceUnavailable
from tailbite.kernel import namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytest_plugins = ["pytester"]

CI = os.environ.get("CI", "").lower() == "true"
_no_network: str | None = None

settings.register_profile("tailbite", deadline=None)  # two noisy cores: a slow example is no bug
settings.load_profile("tailbite")


def pytest_configure(config: pytest.Config) -> None:
    global _no_network
    try:
        namespace.enter_private_network()
    except NamespaceUnavailable as error:
        if CI:
            raise
        _no_network = str(error)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Start each xdist worker in a PID namespace of its own, where the system allows one."""
    for spec in specs:
        spec.python = spec.python or worker_command()


@pytest.fixture
def network() -> Iterator[None]:
    """A network namespace of this test's own, entered by its thread: default sysctls, ``lo`` up, nothing on it."""
    if _no_network:
        pytest.skip(_no_network)
    with namespace.fresh_network():
        yield


def find_peer(program: str) -> str:
    """Return the path of a program of others; missing, it is a failure in CI, a visible skip at home."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        (pytest.fail if CI else pytest.skip)(f"{program} is not installed")
    return path


@pytest.fixture
def peer() -> Callable[[str], str]:
    """``peer("telnet")`` is the path of a real program to meet."""
    return find_peer


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for ``localhost`` with its key, in one PEM file; made by the openssl program."""
    folder = tmp_path_factory.mktemp("tls")
    pem = folder / "both.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")),
        ],
        check=True,
        capture_output=True,
    )
    pem.write_text((folder / "key.pem").read_text() + (folder / "certificate.pem").read_text())
    return pem


@pytest.fixture
def tls_sides(certificate: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server with that certificate, and of a client that trusts it."""
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(certificate)
    return server_side, ssl.create_default_context(cafile=str(certificate))
