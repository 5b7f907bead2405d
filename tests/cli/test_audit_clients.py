"""Clients of the command line: their names, in their order, and what is refused."""

from __future__ import annotations

import click
import pytest

from tailbite.audit.client import Stdin
from tailbite.cli.audit_clients import command_clients, default_name


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("redis-cli", "-h", "{host}", "-p", "{port}"), "redis-cli"),
        (("/usr/bin/nc", "{host}"), "nc"),
        (("env", "A=b", "python3.11", "/x/client.py", "{port}"), "client.py"),
        (("python3", "-c", "import x", "{port}"), "python3"),
        (("python3", "-m", "http.client", "{port}"), "http.client"),
        (("sh", "-c", "cd /x; exec ./mine {port}"), "mine"),
        (("sh", "-c", "exec 3<> /dev/tcp/{host}/{port}; sleep 60"), "sh"),
        (("bash", "-c", "curl http://{host}:{port}/"), "curl"),
        (("bash", "-c", ""), "bash"),
        (("bash", "-c", "$CLIENT {port}"), "bash"),
        (("sh", "{port}"), "sh"),
        (("node", "client.js", "{port}"), "client.js"),
    ],
)
def test_a_client_is_named_after_the_program_that_counts(words: tuple[str, ...], name: str) -> None:
    assert default_name(words) == name


def clients(*names: str, commands: tuple[str, ...] = ()) -> list[str]:
    made = command_clients(
        ("mine", "{port}"), commands, names, image=None, stdin=Stdin.EMPTY, success="up", failure=None
    )
    assert all((client.stdin, client.success) == (Stdin.EMPTY, "up") for client in made)
    return [client.name for client in made]


def test_names_are_given_in_order_and_the_others_are_numbered() -> None:
    assert clients(commands=("mine {port}", "'a b' {port}", "mine {port}")) == ["mine", "mine-2", "a b", "mine-3"]
    assert clients("first", commands=("mine {port}",)) == ["first", "mine"]


@pytest.mark.parametrize(
    ("names", "commands", "sentence"),
    [
        (("a", "b"), (), "2 names for 1 commands"),
        (("a", "a"), ("mine {port}",), "'a' is given twice"),
        ((), ("mine",), "--command must contain {port}"),
        ((), ("",), "--command must contain {port}"),
        ((), ("'",), "cannot be split into words"),
        ((), ("mine {port}\0",), "contains a NUL character"),
    ],
)
def test_a_mistake_is_a_sentence(names: tuple[str, ...], commands: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(click.UsageError, match=sentence):
        clients(*names, commands=commands)
