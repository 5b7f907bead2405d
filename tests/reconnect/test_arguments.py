"""Arguments that cannot work are refused at the call, before anything is dialled, in every shell."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

import tailbite
import tailbite.aio
import tailbite.anyio
from tailbite.reconnect.arguments import LoopSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.shells import Shell

DB = ("db", 5432)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tls": True}, "there is no setting 'tls'"),
        ({"timeout": "5"}, "timeout must be a number"),
        ({"timeout": True}, "timeout must be a number"),
        ({"backoff": 5}, "backoff must be"),
        ({"backoff": tailbite.Backoff}, "backoff must be"),
        ({"max_attempts": 2.5}, "max_attempts must be a whole number"),
        ({"deadline": "1m"}, "deadline must be a number"),
        ({"first": 3}, "first must be a tailbite.Policy"),
        ({"healthy_after": None}, "healthy_after must be a number"),
        ({"retry": 3}, "retry must be"),
        ({"verify": "redis"}, "verify must be a verifier"),
        ({"verify": tailbite.verify.http}, "call it"),
        ({"hooks": 5}, "hooks must be a function or several"),
        ({"hooks": [print, 5]}, "a hook must be callable"),
        ({"ssl": "yes"}, "ssl must be"),
        ({"server_hostname": 5, "ssl": True}, "server_hostname must be"),
        ({"source_address": ("127.0.0.1",)}, "source_address must be"),
        ({"happy_eyeballs_delay": "x"}, "happy_eyeballs_delay must be"),
        ({"keepalive": "x"}, "keepalive must be"),
        ({"user_timeout": "x"}, "user_timeout must be"),
    ],
)
def test_a_wrong_type_is_a_type_error_at_the_call(shell: Shell, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        shell.make(DB, **settings)
    with pytest.raises(TypeError, match=says):
        tailbite.Connector(DB, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 0},
        {"timeout": float("nan")},
        {"max_attempts": 0},
        {"deadline": 0},
        {"deadline": float("nan")},
        {"healthy_after": -1},
        {"keepalive": 1},
        {"user_timeout": -1},
        {"happy_eyeballs_delay": -1},
        {"server_hostname": "db"},
    ],
)
def test_a_number_out_of_range_is_a_value_error_at_the_call(shell: Shell, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        shell.make(DB, **settings)


@pytest.mark.parametrize(
    "address", [42, None, ("db",), ("db", None), ("db", 1.5), ("db", True), (5, 5), "db", ("db", 1, 2)]
)
@pytest.mark.parametrize("make", [tailbite.connections, tailbite.aio.connections, tailbite.anyio.connections])
def test_a_wrong_address_is_a_type_error_at_the_call(make: Any, address: Any) -> None:
    with pytest.raises(TypeError):
        make(address)


@pytest.mark.parametrize("port", [0, -1, 65536, 70000])
def test_a_port_out_of_range_is_a_value_error_at_the_call(shell: Shell, port: int) -> None:
    with pytest.raises(ValueError, match="is not a valid port"):
        shell.make(("db", port))


def test_the_arguments_of_one_shell_are_checked_too() -> None:
    wrong: list[tuple[Callable[..., object], dict[str, object], type[Exception]]] = [
        (tailbite.connections, {"address": DB, "read_timeout": -1}, ValueError),
        (tailbite.connections, {"address": DB, "read_timeout": "1"}, TypeError),
        (tailbite.aio.connections, {"host": "db", "port": 1, "limit": 0}, ValueError),
        (tailbite.aio.connections, {"host": "db", "port": 1, "limit": "1"}, TypeError),
    ]
    for function, arguments, error in wrong:
        with pytest.raises(error, match=r"read_timeout|limit"):
            function(**arguments)


def described(text: str | None) -> dict[str, str]:
    """Return the entries of the sections Args and Attributes of a docstring."""
    lines = inspect.cleandoc(text or "").split("\n")
    entries: dict[str, list[str]] = {}
    for line in lines[next(n for n, line in enumerate(lines) if line in ("Args:", "Attributes:")) + 1 :]:
        if line and not line.startswith("    "):
            break
        if line.startswith("    ") and not line.startswith("     "):
            entries[line.strip().partition(":")[0]] = [line.strip()]
        elif line.strip():
            entries[next(reversed(entries))].append(line.strip())
    return {name: " ".join(words) for name, words in entries.items()}


def test_every_parameter_is_explained_where_an_editor_shows_it_and_in_the_same_words() -> None:
    settings = described(LoopSettings.__doc__)
    assert list(settings) == list(LoopSettings.__annotations__)
    own = {
        tailbite.connections: ["address", "read_timeout"],
        tailbite.Connector: ["address", "read_timeout"],
        tailbite.aio.connections: ["host", "port", "limit"],
        tailbite.anyio.connections: ["host", "port"],
    }
    for function, names in own.items():
        entries = described(function.__doc__)
        assert list(entries) == [*names, *settings]
        assert {name: entries[name] for name in settings} == settings
