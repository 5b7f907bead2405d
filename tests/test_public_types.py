"""The types of the public names, as pyright sees them; wrong calls are found by it, or refused at the call."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import tailbite
import tailbite.aio
import tailbite.anyio
import tailbite.verify
from conftest import find_peer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import api  # noqa: E402 - tools is not a package


def pyright(*arguments: str) -> dict[str, Any]:
    """Run pyright on the node of this machine; it comes with the development tools and needs no network."""
    find_peer("node")
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"  # --verifytypes asks this `python`
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=580,
        env={**os.environ, "PATH": path, "PYRIGHT_PYTHON_GLOBAL_NODE": "1", "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
    )
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def public_prefixes() -> set[str]:
    """Return the full names under which the public names are defined."""
    found = set()
    for module in api.MODULES:
        loaded = importlib.import_module(module)
        for name in api.public_names(module):
            found.add(f"{module}.{name}")
            value = getattr(loaded, name)
            if hasattr(value, "__qualname__") and str(getattr(value, "__module__", "")).startswith("tailbite"):
                found.add(f"{value.__module__}.{value.__qualname__}")
    return found


@pytest.mark.timeout(600)
def test_every_public_name_has_a_known_type() -> None:
    """``pyright --verifytypes``, of the public modules: what users and their editors see."""
    symbols = pyright("--verifytypes", "tailbite", "--ignoreexternal")["typeCompleteness"]["symbols"]
    prefixes = public_prefixes()
    public = [
        symbol
        for symbol in symbols
        if symbol["name"] in prefixes or any(symbol["name"].startswith(f"{prefix}.") for prefix in prefixes)
    ]
    assert len(public) > 900, "pyright did not see the package"
    assert [
        (symbol["name"], [each["message"] for each in symbol["diagnostics"]])
        for symbol in public
        if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]
    ] == []


class Wrong(NamedTuple):
    """A wrong call, and what becomes of it."""

    call: str
    says: str
    """A part of the TypeError that it raises at the call."""
    is_seen: bool = True
    """True if the type checker finds it."""


DB = ("db", 5432)
WRONG = [
    Wrong('tailbite.connections(("h", 1), timeot=5)', "there is no setting 'timeot'"),
    Wrong('tailbite.connections("127.0.0.1", 32246)', "takes 1 positional argument"),
    Wrong('tailbite.connections("127.0.0.1")', "if it is a Unix socket", is_seen=False),
    Wrong("tailbite.connections(42)", "42 is not a valid address"),
    Wrong('tailbite.connections(("h",))', "is not a valid address"),
    Wrong('tailbite.connections(("h", 1), backoff=3)', "backoff must be"),
    Wrong('tailbite.connections(("h", 1), hooks=3)', "hooks must be"),
    Wrong('tailbite.connections(("h", 1), verify="redis")', "verify must be"),
    Wrong('tailbite.connections(("h", 1), first=3)', "first must be"),
    Wrong('tailbite.connections(("h", 1), timeout="5")', "timeout must be"),
    Wrong('tailbite.Connector(("h", 1), tls=True)', "there is no setting 'tls'"),
    Wrong("tailbite.Connector(42)", "42 is not a valid address"),
    Wrong("tailbite.aio.connections(42)", "42 is not a valid address"),
    Wrong('tailbite.aio.connections("h", 1, timeot=5)', "there is no setting 'timeot'"),
    Wrong('tailbite.aio.connections("h", 1.5)', "is not a valid"),
    Wrong('tailbite.anyio.connections("h", 1, backoff=3)', "backoff must be"),
    Wrong('tailbite.create_connection(("h", 1), tls=True)', "unexpected keyword argument 'tls'"),
    Wrong('asyncio.run(tailbite.open_connection("h", 1, tls=True))', "argument 'tls'", is_seen=False),
    Wrong("tailbite.wait(42)", "42 is not a valid address"),
    Wrong('tailbite.wait("h:1", timeot=3)', "unexpected keyword argument 'timeot'", is_seen=False),
    Wrong('tailbite.wait("h:1", timeout="3")', "timeout must be"),
    Wrong('tailbite.wait("h:1", interval="3")', "interval must be"),
    Wrong('tailbite.wait("h:1", patience=None)', "patience must be"),
    Wrong('tailbite.wait("h:1", verify="redis")', "verify must be"),
    Wrong('tailbite.wait("h:1", on_attempt=3)', "on_attempt must be"),
    Wrong('asyncio.run(tailbite.aio.wait("h:1", verify="redis"))', "verify must be"),
    Wrong("tailbite.guard(events=3)", "events must be"),
    Wrong("tailbite.guard(print)", "positional argument"),
    Wrong('tailbite.Backoff("1")', "initial must be"),
    Wrong("tailbite.Backoff(draw=3)", "draw must be"),
    Wrong("tailbite.Policy(3)", "backoff must be"),
    Wrong('tailbite.Policy(deadline="1m")', "deadline must be"),
    Wrong("tailbite.verify.http(3)", "path must be"),
    Wrong('tailbite.verify.http(status="200")', "status must be", is_seen=False),
    Wrong('tailbite.verify.redis(timeout="1")', "timeout must be"),
    Wrong('tailbite.verify.mysql(timeout="1")', "timeout must be"),
    Wrong('tailbite.verify.postgres(timeout="1")', "timeout must be"),
    Wrong('tailbite.verify.tls("redis")', "verify must be"),
    Wrong('tailbite.verify.banner("hello")', "must be bytes"),
    Wrong('tailbite.verify.send_expect("a", b"b")', "must be bytes"),
]
NEVER_RUN = [
    'for c in tailbite.connections(("h", 1)): c.sendall(b"x")',
    "async def f() -> None:\n    async for c in tailbite.connections(('h', 1)): ...",
    "for c in tailbite.aio.connections('h', 1): ...",
]
RIGHT = [
    'tailbite.connections(("h", 1), timeout=5, backoff=tailbite.Backoff(), hooks=print)',
    'tailbite.connections("/run/db.sock", verify=tailbite.verify.redis)',
    'tailbite.aio.connections(("h", 1), first=tailbite.Policy(max_attempts=3))',
    'tailbite.aio.connections("h", "postgresql", retry=ConnectionError)',
    'tailbite.wait("h:1", ("h", 2), verify=tailbite.verify.tls(tailbite.verify.redis), timeout=None)',
    'tailbite.verify.http("/up", status={200, 204})',
    'tailbite.Connector(("h", 1), read_timeout=2).close()',
]


@pytest.mark.timeout(600)
def test_the_type_checker_finds_wrong_calls_and_no_right_ones(tmp_path: Path) -> None:
    program = tmp_path / "calls.py"
    lines = ["import asyncio, tailbite, tailbite.aio, tailbite.anyio, tailbite.verify"]
    found: dict[int, str] = {}
    for call in [*(wrong.call for wrong in WRONG), *NEVER_RUN, *RIGHT]:
        lines += call.split("\n")
        found[len(lines)] = call
    program.write_text("\n".join(lines) + "\n")
    reports = pyright(str(program))["generalDiagnostics"]
    seen = {found[each["range"]["start"]["line"] + 1] for each in reports if each["severity"] == "error"}
    assert seen == {wrong.call for wrong in WRONG if wrong.is_seen} | set(NEVER_RUN)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.call)
def test_a_wrong_call_is_a_clear_type_error(wrong: Wrong) -> None:
    with pytest.raises(TypeError, match=re.escape(wrong.says)):
        eval(wrong.call, {"tailbite": tailbite, "asyncio": asyncio})


@pytest.mark.parametrize("make", [tailbite.Connection, tailbite.aio.AsyncConnection, tailbite.anyio.AsyncConnection])
def test_a_connection_that_is_not_entered_says_how(make: Any) -> None:
    connection: Any = make.__new__(make)
    connection._is_entered = True  # its end does nothing
    with pytest.raises(AttributeError, match="with connection as"):
        connection.sendall(b"x")
