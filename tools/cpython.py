"""CPython's own tests with tailbite in place of what it replaces: ``python tools/cpython.py MODULE...``

The tests of the standard library run twice in private network namespaces, once as they are and once with
``socket.create_connection``, ``asyncio.open_connection`` and the loop's ``create_connection`` replaced by tailbite's.
A test that fails in the second run only is a difference between tailbite and the standard library. Exit status 1 if
there is one. Limits of time are raised for both runs, and tests that have a short one of their own are left out.
"""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
import unittest
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ASYNCIO", "BLOCKING", "Outcome", "differences", "run_modules"]

_OF_SOCKET = ("NetworkConnectionNoServer", "NetworkConnectionAttributesTest", "NetworkConnectionBehaviourTest")
_CLIENTS = ("httplib", "smtplib", "ftplib", "poplib", "imaplib", "xmlrpc", "urllib2_localnet", "timeout")

BLOCKING = (*(f"test_socket.{name}" for name in _OF_SOCKET), *(f"test_{name}" for name in _CLIENTS))
"""Modules whose tests connect with ``socket.create_connection``, directly or through a client of the library."""

ASYNCIO = tuple(
    f"test_asyncio.test_{name}" for name in ("streams", "events", "server", "sendfile", "sslproto", "ssl")
)
"""Modules of asyncio's tests. ``test_base_events`` is not among them: it replaces ``base_events.socket`` by a mock,
which tailbite does not use by design."""

_LIMITS = ("LOOPBACK_TIMEOUT", "INTERNET_TIMEOUT", "SHORT_TIMEOUT", "LONG_TIMEOUT")
"""The limits of CPython's tests, in ``test.support``: 10 s for what happens on loopback."""
_LIMIT_S = 300.0
_OF_SECONDS = (
    "NetworkConnectionBehaviourTest.testOutsideTimeout",  # has a second before a server answers that sleeps for three
    "test_smtplib.DebuggingServerTests.",  # sleeps for 10 ms until its server has handled a command
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one run.

    Attributes:
        run: number of tests that were run.
        guarded: number of calls of tailbite's functions.
        failed: names of the tests that failed.
    """

    run: int
    guarded: int
    failed: frozenset[str]


def run_modules(modules: tuple[str, ...], *, replaced: bool, timeout: float = 600) -> Outcome:
    """Run the test modules in a process and a network namespace of their own.

    Raises:
        subprocess.CalledProcessError: the tests could not be run.
        subprocess.TimeoutExpired: they took too long.
    """
    command = (sys.executable, __file__, "--child", "replaced" if replaced else "plain", *modules)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=True, cwd=Path(__file__).parent
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    return Outcome(answer["run"], answer["guarded"], frozenset(answer["failed"]))


def differences(modules: tuple[str, ...], timeout: float = 600) -> tuple[Outcome, Outcome, frozenset[str]]:
    """Return the plain run, the run with tailbite, and the tests that failed only in the latter."""
    plain = run_modules(modules, replaced=False, timeout=timeout)
    replaced = run_modules(modules, replaced=True, timeout=timeout)
    return plain, replaced, replaced.failed - plain.failed


def _replace() -> list[int]:
    """Put tailbite's functions in the place of the standard library's; return the counter of their calls."""
    import asyncio
    import asyncio.base_events
    import asyncio.streams
    import socket

    import tailbite
    import tailbite.aio

    calls = [0]
    original: Any = asyncio.base_events.BaseEventLoop.create_connection
    streams = tailbite.open_connection

    def blocking(*args: object, **options: object) -> object:
        calls[0] += 1
        return tailbite.create_connection(*args, **options)  # type: ignore[arg-type]

    async def of_loop(loop: object, factory: object, *args: object, **options: object) -> object:
        if options.get("sock") is not None or type(loop).__module__ != "asyncio.unix_events":
            return await original(loop, factory, *args, **options)
        calls[0] += 1
        return await tailbite.aio.create_connection(factory, *args, **options)  # type: ignore[arg-type]

    async def stream(*args: object, **options: object) -> object:
        calls[0] += 1
        return await streams(*args, **options)  # type: ignore[arg-type]

    socket.create_connection = blocking  # type: ignore[assignment]
    asyncio.base_events.BaseEventLoop.create_connection = of_loop  # type: ignore[assignment,method-assign]
    asyncio.open_connection = asyncio.streams.open_connection = stream  # type: ignore[assignment]
    return calls


def _steady(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Yield the tests that do not depend on the speed of the machine."""
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from _steady(each)
        elif not any(name in each.id() for name in _OF_SECONDS):
            yield each


def _child(way: str, modules: list[str]) -> None:
    from tailbite.kernel.namespace import enter_private_network

    enter_private_network()
    calls = _replace() if way == "replaced" else [0]
    support = importlib.import_module("test.support")
    for name in _LIMITS:
        setattr(support, name, _LIMIT_S)
    found = unittest.defaultTestLoader.loadTestsFromNames([f"test.{module}" for module in modules])
    suite = unittest.TestSuite(_steady(found))
    result = unittest.TextTestRunner(io.StringIO(), verbosity=0).run(suite)
    failed = sorted({test.id() for test, _ in (*result.errors, *result.failures)})
    print(json.dumps({"run": result.testsRun, "guarded": calls[0], "failed": failed}))


def main(modules: tuple[str, ...]) -> int:
    """Compare and print; return the exit status."""
    plain, replaced, only = differences(modules)
    print(f"{plain.run} tests plain, {replaced.run} with tailbite, {replaced.guarded} guarded connects")
    print(f"{len(plain.failed)} fail in both or plain, {len(only)} only with tailbite")
    for name in sorted(only):
        print(f"  {name}")
    return 1 if only else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main(tuple(sys.argv[1:]) or BLOCKING + ASYNCIO))
