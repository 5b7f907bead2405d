"""Isolation of the tests: each process of pytest has a network namespace of its own, each xdist worker its own /proc.

No test can touch the machine's own network, and no test can see the processes of another worker or of the machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from support.abilities import has_ability
from support.isolation import worker_command
from tailbite.errors import NamespaceUnavailable
from tailbite.kernel import namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest_plugins = ["pytester"]

CI = os.environ.get("CI", "").lower() == "true"
_no_network: str | None = None

# A slow example on a busy machine is not a bug. Every run tries the same examples, so that a failure is the change's
# own; `make explore` tries many new ones, and prints how to repeat one that failed.
settings.register_profile("same", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True, max_examples=1000)
settings.load_profile("same")

# Go compiles its standard library once for all programs that tests build, not for each (10 s of CPU time).
os.environ.setdefault("GOCACHE", str(Path(__file__).parents[1] / ".peers" / "go-cache"))

TOGETHER = (
    "tests/audit/test_known_clients.py::test_each_of_the_postgresql_group",
    "tests/audit/test_known_clients.py::",
    "tests/verifiers/test_real_servers.py::",
    "tests/cli/test_circumstances.py::",
)
"""Beginnings of the names of tests that share a fixture which takes long to make."""

TAKE_LONG = (
    "tests/audit/test_known_clients.py",
    "tests/audit/test_recover.py",
    "tests/testkit/",
    "tests/cli/test_lab.py",
    "tests/audit/",
    "tests/guards/program/",
    "tests/cli/",
)
"""Files whose tests wait for the kernel or start many processes: they come first, so that no worker ends alone."""


def pytest_configure(config: pytest.Config) -> None:
    global _no_network
    if "PYTEST_XDIST_WORKER" in os.environ:
        _use_own_temporary_folder(config)
    # A background job of a shell has both ignored, and so would every program that a test starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    try:
        namespace.enter_private_network()
        namespace.give_child_networks_small_tables()
    except NamespaceUnavailable as error:
        if CI:
            raise
        _no_network = str(error)


def _use_own_temporary_folder(config: pytest.Config) -> None:
    """Point TMPDIR to a folder of this worker: servers name their files by process id, which the workers share."""
    folder = Path(tempfile.mkdtemp(prefix="t-"))  # short: the path of a Unix socket has 107 bytes at most (unix(7))
    folder.chmod(0o1777)
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Start three workers for each core: the longest tests only wait."""
    return 3 * len(os.sched_getaffinity(0))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out tests one by one, but those that share an expensive fixture to one worker."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return next((group for group in TOGETHER if nodeid.startswith(group)), nodeid)

    return Scheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Start each xdist worker in a PID namespace of its own, where the system allows one."""
    for spec in specs:
        spec.python = spec.python or worker_command()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((index for index, path in enumerate(TAKE_LONG) if item.nodeid.startswith(path)), len(TAKE_LONG))

    items.sort(key=place)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name in (name for mark in item.iter_markers("needs") for name in mark.args):
        if _no_network:
            pytest.skip(_no_network)
        if not has_ability(name):
            (pytest.fail if CI else pytest.skip)(f"this kernel lacks {name}")


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
    """Make a self-signed certificate for ``localhost`` with its key, in one PEM file, with the openssl program."""
    folder = tmp_path_factory.mktemp("tls")
    pem, key, own = folder / "both.pem", folder / "key.pem", folder / "certificate.pem"
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(own)]
    subprocess.run([find_peer("openssl"), *make.split(), *names], check=True, capture_output=True)
    pem.write_text(key.read_text() + own.read_text())
    return pem


@pytest.fixture
def tls_sides(certificate: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server with that certificate, and of a client that trusts it."""
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(certificate)
    return server_side, ssl.create_default_context(cafile=str(certificate))
