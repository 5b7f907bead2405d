"""The pytest plugin: ports that behave, a trap for the code under test, and a report of tests that reach themselves.

It does nothing until a fixture of it or ``--tailbite`` is used, and loads nothing but pytest until then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from tailbite.audit.verdict import Verdict
    from tailbite.testkit.trap import ProcessTrap
    from tailbite.testkit.watch import Watch

__all__ = ["SelfConnectWarning"]

_MODES = ("off", "warn", "fail")
_watch: pytest.StashKey[Watch] = pytest.StashKey()


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
    """Start to watch, if asked to."""
    if _mode(config) != "off":
        from tailbite.testkit.watch import Watch

        watch = Watch()
        watch.start()
        config.stash[_watch] = watch


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop watching."""
    if (watch := config.stash.get(_watch, None)) is not None:
        watch.stop()


def _mode(config: pytest.Config) -> str:
    mode = config.getoption("--tailbite") or config.getini("tailbite")
    if mode not in _MODES:
        raise pytest.UsageError(f"the ini option tailbite is {mode!r}; it takes one of: {', '.join(_MODES)}")
    return str(mode)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Report what fixtures did."""
    return (yield from _reported(item, "while its fixtures were set up"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Report what the test did."""
    return (yield from _reported(item, ""))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Report what fixtures did at the end."""
    return (yield from _reported(item, "while its fixtures were torn down"))


def _reported(item: pytest.Item, when: str) -> Generator[None, object, object]:
    watch = item.config.stash.get(_watch, None)
    if watch is None:
        return (yield)
    watch.begin()
    try:
        result = yield
    except BaseException:
        for one in watch.end():
            item.add_report_section("call", "tailbite", f"connected to itself: {one}")
        raise
    if found := watch.end():
        message = f"{item.nodeid} connected to itself{f' {when}' if when else ''}: {'; '.join(map(str, found))}"
        if _mode(item.config) == "fail":
            pytest.fail(message, pytrace=False)
        item.warn(SelfConnectWarning(message))
    return result


@pytest.fixture
def refused_port() -> Iterator[int]:
    """A local port that refuses connections for as long as the test runs, and is nobody's source port.

    It is bound on 127.0.0.1 (and ::1 where there is IPv6), and nobody listens. "Find a free port, then close it"
    leaves a port that a client can connect to itself on.
    """
    from tailbite.testkit.ports import hold_refused_port

    with hold_refused_port() as port:
        yield port


@pytest.fixture
def server_port() -> Iterator[int]:
    """A local port that the test's server can bind, at any time of the test, and that no client can take away.

    It lies outside the ephemeral range, so the kernel gives it to nobody; tests in other workers do not get it
    either until this test is over.
    """
    from tailbite.testkit.ports import reserve_server_port

    with reserve_server_port() as port:
        yield port


@pytest.fixture
def self_connect_trap() -> Iterator[ProcessTrap]:
    """A dead port on which every unguarded connect of this process connects to itself, at the first attempt.

    No privilege and no namespace: connects of Python's socket module to the port are given a source port range
    that is the port alone (Linux 6.3). Sockets that are bound or have a range of their own are left as they are,
    so a client that protects itself stays unharmed. Skips where the kernel lacks the option.
    """
    from tailbite.testkit.trap import ProcessTrap

    if (why := ProcessTrap.why_not()) is not None:
        pytest.skip(why)
    with ProcessTrap() as trap:
        yield trap


@pytest.fixture
def audit_client() -> Callable[..., Verdict]:
    """``audit_client(command) -> Verdict``: run any program where it must connect to itself, and judge it.

    The command is a list, or a string that is split as a shell does; ``{host}``, ``{port}`` and ``{python}`` in it
    are filled in. With ``quick=False`` all addresses and both port allocators are tried. Skips where private
    network namespaces are not to be had.
    """

    def audit(command: str | Sequence[str], *, quick: bool = True, stdin: str = "silent") -> Verdict:
        import shlex

        from tailbite.audit.records import Client, Limits, Stdin
        from tailbite.audit.warden import audit as run
        from tailbite.errors import NamespaceUnavailable

        words = tuple(shlex.split(command) if isinstance(command, str) else command)
        if not words:
            raise ValueError("the command is empty; pass a program and its arguments")
        try:
            return run(Client(words[0], words, stdin=Stdin(stdin)), Limits(quick=quick))
        except NamespaceUnavailable as error:
            pytest.skip(str(error))

    return audit
