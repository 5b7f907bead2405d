"""The examples of every help: each is a valid command line, with options and values that the command takes."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from tailbite.cli.group import tailbite


def _examples(group: click.Group, path: tuple[str, ...] = ()) -> list[str]:
    found = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            found += _examples(command, (*path, name))
        elif command is not None:
            lines = re.findall(r"^\s+(?:sudo )?tailbite ([^\n]*)$", command.help or "", re.MULTILINE)
            assert lines, f"{name} has no example"
            found += [re.split(r"\s+[#>|] ?", line)[0].strip() for line in lines]
    return found


EXAMPLES = _examples(tailbite)


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_is_a_valid_command_line(line: str) -> None:
    command: click.Command = tailbite
    words = shlex.split(line.replace("$(hostname)", "host"))
    context = click.Context(command)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None
        command = found
    parser = command.make_parser(click.Context(command))
    if "--" in words:
        words = words[: words.index("--")]
    given, _, _ = parser.parse_args(words)
    for option in command.params:
        value = given.get(option.name or "")
        is_file = isinstance(option.type, click.Path) or option.name in ("ports", "baseline")
        if isinstance(value, str) and not is_file:
            option.type.convert(value, option, click.Context(command))
