"""The pytest plugin: ports for tests, a trap for the code under test, and a report of self-connects.

The plugin does nothing until one of its fixtures or ``--tailbite`` is used, and loads nothing but pytest until then.
Each fixture has a second name with the prefix ``tailbite_``, for projects that have a fixture of the short name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from tailbite.audit.verdict import Verdict
    from tailbite.testkit.trap import ProcessTrap
    from tailbite.testkit.watch import SelfConnectWatch

__all__ = ["SelfConnectWarning"]

_MODES = ("off", "warn", "fail")
_watch: pytest.StashKey[SelfConnectWatch] = pytest.StashKey()


class SelfConnectWarning(pytest.PytestWarning):
    """A test of this run connected to itself (``--tailbite=warn``)."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--tailbite`` and the ini option of the same name."""
    group = parser.getgroup("tailbite", "TCP self-connect")
    group.addoption(
        "--tailbite",
        choices=_MODES,
        default=None,
        help="report tests in which this process connected to itself over TCP: off, warn or fail",
    )
    parser.addini("tailbite", "the default of --tailbite: off, warn or fail", default="off")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and start the watch if it is asked for."""
    config.addinivalue_line(
        "markers", "allow_self_connect: this test connects to itself on purpose; --tailbite does not report it"
    )
    if _mode(config) != "off":
        from tailbite.testkit.watch import SelfConnectWatch

        watch = SelfConnectWatch()
        watch.start()
        config.stash[_watch] = watch


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the watch."""
    if (watch := config.stash.get(_watch, None)) is not None:
        watch.stop()


def _mode(config: pytest.Config) -> str:
    mode = config.getoption("--tailbite") or config.getini("tailbite")
    if mode not in _MODES:
        raise pytest.UsageError(f"the ini option tailbite is {mode!r}; it takes one of: {', '.join(_MODES)}")
    return str(mode)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Report the self-connects of fixtures."""
    return (yield from _reported(item, "while its fixtures were set up"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Report the self-connects of the test."""
    return (yield from _reported(item, ""))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Report the self-connects of fixtures at the end."""
    return (yield from _reported(item, "while its fixtures were torn down"))


def _reported(item: pytest.Item, when: str) -> Generator[None, object, object]:
    watch = item.config.stash.get(_watch, None)
    if watch is None or item.get_closest_marker("allow_self_connect") is not None:
        return (yield)
    watch.begin()
    try:
        result = yield
    except BaseException:
        for seen in watch.end():
            item.add_report_section("call", "tailbite", f"connected to itself: {seen}")
        raise
    if found := watch.end():
        message = f"{item.nodeid} connected to itself{f' {when}' if when else ''}: {'; '.join(map(str, found))}"
        if _mode(item.config) == "fail":
            pytest.fail(message, pytrace=False)
        item.warn(SelfConnectWarning(message))
    return result


@pytest.fixture
def tailbite_refused_port() -> Iterator[int]:
    """A local port that refuses connections for as long as the test runs, and is nobody's source port.

    It is bound on 127.0.0.1 (and ::1 where there is IPv6), and nobody listens. "Find a free port, then close it"
    leaves a port that a client can connect to itself on.
    """
    from tailbite.testkit.ports import hold_refused_port

    with hold_refused_port() as port:
        yield port


@pytest.fixture
def tailbite_server_port() -> Iterator[int]:
    """A local port that the test's server can bind, at any time of the test, and that no client can take away.

    It lies outside the ephemeral range, so the kernel gives it to nobody; tests in other workers do not get it
    either until this test is over.
    """
    from tailbite.testkit.ports import reserve_server_port

    with reserve_server_port() as port:
        yield port


@pytest.fixture
def tailbite_self_connect_trap() -> Iterator[ProcessTrap]:
    """A dead port on which every unguarded connect of this process connects to itself, at the first attempt.

    No privilege and no namespace: connects of Python's socket module to the port are given a source port range
    that is the port alone (Linux 6.3). Sockets that are bound or have a range of their own are left as they are,
    so a client that protects itself stays unharmed. Skips where the kernel lacks the option.
    """
    from tailbite.testkit.trap import ProcessTrap

    if (why := ProcessTrap.why_unavailable()) is not None:
        pytest.skip(why)
    with ProcessTrap() as trap:
        yield trap


@pytest.fixture
def tailbite_audit_client() -> Callable[..., Verdict]:
    """``audit_client(command) -> Verdict``: run any program where it must connect to itself, and judge it.

    The command is a list, or a string that is split as a shell does; ``{host}``, ``{port}`` and ``{python}`` in it
    are filled in. ``audit_client(command).require("immune")`` fails with the reason. Skips where private network
    namespaces are not available.

    Keyword arguments:
        quick: False to try all addresses and both port allocators.
        name: the client's name in the reason; that of the program if not given.
        stdin: ``silent`` (never says anything) or ``empty`` (at its end).
        watch: seconds to watch at least, after the first dial.
        patience: seconds that a client which is still running is given to come back.
        timeout: seconds in which it must have dialled.
    """
    return _audit


def _audit(
    command: str | Sequence[str],
    *,
    quick: bool = True,
    name: str | None = None,
    stdin: str = "silent",
    watch: float | None = None,
    patience: float | None = None,
    timeout: float | None = None,
) -> Verdict:
    import shlex
    from dataclasses import replace
    from pathlib import PurePath

    from tailbite.audit import Client, Limits, audit
    from tailbite.audit.client import Stdin
    from tailbite.errors import NamespaceUnavailable

    words = tuple(shlex.split(command) if isinstance(command, str) else command)
    if not any("{port}" in word for word in words):
        raise ValueError("the command must contain {port}, where the audit puts the dead port")
    limits = Limits.of_quick() if quick else Limits()
    given: dict[str, Any] = {"watch": watch, "patience": patience, "dial": timeout}
    limits = replace(limits, **{name: value for name, value in given.items() if value is not None})
    try:
        return audit(Client(name or PurePath(words[0]).name, words, stdin=Stdin(stdin)), limits)
    except NamespaceUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def refused_port(tailbite_refused_port: int) -> int:
    """A local port that refuses connections for as long as the test runs; see ``tailbite_refused_port``."""
    return tailbite_refused_port


@pytest.fixture
def server_port(tailbite_server_port: int) -> int:
    """A local port that the test's server can bind, and no client can take away; see ``tailbite_server_port``."""
    return tailbite_server_port


@pytest.fixture
def self_connect_trap(tailbite_self_connect_trap: ProcessTrap) -> ProcessTrap:
    """A dead port on which unguarded connects connect to themselves; see ``tailbite_self_connect_trap``."""
    return tailbite_self_connect_trap


@pytest.fixture
def audit_client(tailbite_audit_client: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """``audit_client(command) -> Verdict``: run a program in a trap and judge it; see ``tailbite_audit_client``."""
    return tailbite_audit_client
