"""The commands of tailbite as plain records, read from click: the source of the man page and the completions."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import click

from tailbite.cli.schema import known_schemas
from tailbite.host.explain.pages import known_codes

__all__ = ["Command", "Parameter", "command_tree"]


@dataclass(frozen=True)
class Parameter:
    """An option or an argument.

    Attributes:
        names: an option's spellings, the short ones first; empty for an argument.
        metavar: placeholder of the value; empty for a flag.
        help: description.
        choices: the permitted values, if that is a short list.
        kind: "file", "directory", "netns", "command", "host" or "": the values that a shell completes.
        value_is_optional: True for an option that can be used without its value.
        is_many: True for an argument that takes more than one word.
    """

    names: tuple[str, ...]
    metavar: str
    help: str
    choices: tuple[str, ...]
    kind: str
    value_is_optional: bool = False
    is_many: bool = False

    @property
    def takes_value(self) -> bool:
        """True if a value follows."""
        return bool(self.metavar)


@dataclass(frozen=True)
class Command:
    """A command or a group of commands.

    Attributes:
        path: its words, e.g. ``("tailbite", "scan")``.
        summary: one line.
        paragraphs: the help text; a paragraph that keeps its lines begins with a line feed.
        usage: the usage line without the path.
        parameters: options and arguments, in their order.
        commands: the commands of a group.
    """

    path: tuple[str, ...]
    summary: str
    paragraphs: tuple[str, ...]
    usage: str
    parameters: tuple[Parameter, ...]
    commands: tuple[Command, ...] = ()

    @property
    def options(self) -> tuple[Parameter, ...]:
        """The options alone."""
        return tuple(one for one in self.parameters if one.names)

    @property
    def arguments(self) -> tuple[Parameter, ...]:
        """The arguments alone."""
        return tuple(one for one in self.parameters if not one.names)

    def walk(self) -> list[Command]:
        """Return this command and those below it, in their order."""
        return [self, *(below for one in self.commands for below in one.walk())]


def command_tree(root: click.Command, name: str) -> Command:
    """Read ``root`` and all commands below it."""
    return _command(root, (name,), None)


def _command(command: click.Command, path: tuple[str, ...], parent: click.Context | None) -> Command:
    context = click.Context(command, info_name=path[-1], parent=parent, **command.context_settings)
    below: tuple[Command, ...] = ()
    if isinstance(command, click.Group):
        found = ((name, command.get_command(context, name)) for name in command.list_commands(context))
        below = tuple(_command(one, (*path, name), context) for name, one in found if one and not one.hidden)
    parameters = tuple(
        _parameter(one, context) for one in command.get_params(context) if not getattr(one, "hidden", False)
    )
    return Command(
        path,
        command.get_short_help_str(limit=200),
        _paragraphs(command.help or ""),
        " ".join(command.collect_usage_pieces(context)),
        parameters,
        below,
    )


def _paragraphs(text: str) -> tuple[str, ...]:
    text = inspect.cleandoc(text).partition("\f")[0]
    found = []
    for part in text.split("\n\n"):
        kept = part.strip("\n")
        if kept.startswith("\b"):
            found.append("\n" + kept.lstrip("\b").strip("\n"))
        elif kept:
            found.append(" ".join(kept.split()))
    return tuple(found)


def _parameter(one: click.Parameter, context: click.Context) -> Parameter:
    choices = tuple(map(str, one.type.choices)) if isinstance(one.type, click.Choice) else ()
    if isinstance(one, click.Option):
        names = tuple(sorted((*one.opts, *one.secondary_opts), key=lambda name: (name.startswith("--"), len(name))))
        metavar = "" if one.is_flag or one.count else one.make_metavar(context)
        # The help record has the default in brackets after the help text, as click prints it.
        record = one.get_help_record(context)
        text = " ".join(record[1].split()) if record else ""
        optional = not one.is_flag and getattr(one, "_flag_needs_value", False)
        if "CODE" in metavar:
            choices = known_codes()
        return Parameter(names, metavar, text, choices, _kind(one, metavar), optional)
    metavar = one.make_metavar(context)
    if one.name == "name" and context.info_name == "schema":
        choices = tuple(known_schemas())
    return Parameter((), metavar, "", choices, _kind(one, metavar), is_many=one.nargs != 1)


def _kind(one: click.Parameter, metavar: str) -> str:
    if isinstance(one.type, click.Path):
        return "directory" if not one.type.file_okay else "file"
    if isinstance(one.type, click.File) or "FILE" in metavar:
        return "file"
    if "--netns" in one.opts:
        return "netns"
    if metavar.startswith("TARGET"):
        return "host"
    if not isinstance(one, click.Option) and (one.nargs == -1 or "COMMAND" in metavar):
        return "command"
    return ""
