"""The exit statuses that each help promises are known, and each is reached by a command line."""

from __future__ import annotations

import re

import click

from support.promised import ELSEWHERE, PROMISED
from tailbite.cli import status
from tailbite.cli.group import tailbite


def helps(group: click.Group, path: tuple[str, ...] = ()) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            found |= helps(command, (*path, name))
        elif command is not None:
            found[" ".join((*path, name))] = command.help or ""
    return found


def test_each_status_that_a_help_promises_has_a_line_here() -> None:
    promised = {}
    for name, text in helps(tailbite).items():
        (sentence,) = re.findall(r"^\s*Exit status:(.*?)(?:\n\s*\n|\Z)", text, re.MULTILINE | re.DOTALL)
        promised[name] = {int(number) for number in re.findall(r"\b(\d+)\b(?! s\b)", sentence)}
    assert {name: set(statuses) for name, statuses in PROMISED.items()} == {
        name: statuses for name, statuses in promised.items() if name not in ELSEWHERE
    }
    assert set(ELSEWHERE) < set(promised)


def test_the_statuses_of_a_group_are_those_of_its_table() -> None:
    known = {value for name in status.__all__ if isinstance(value := getattr(status, name), int)}
    for statuses in PROMISED.values():
        assert set(statuses) <= known | {126, 127}
