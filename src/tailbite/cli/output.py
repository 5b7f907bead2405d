"""What all commands share in talking to people (tables, prose) and to programs (JSON).

Tables and JSON go to stdout, prose to stderr. Colour is rich's decision: only on a terminal, and never with
NO_COLOR set (https://no-color.org).
"""

from __future__ import annotations

import sys
from enum import Enum
from typing import TYPE_CHECKING, Any

import click

from tailbite.cli import status

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Unsupported", "as_json", "console", "emit_json", "note", "plain"]


class Unsupported(click.ClickException):
    """The system lacks what the command needs; exit status 4."""

    exit_code = status.UNSUPPORTED

    def show(self, file: Any = None) -> None:
        """Print the sentence to stderr."""
        click.echo(f"tailbite: {plain(self.format_message())}", err=True)


def console(*, stderr: bool = False) -> Console:
    """Return a rich console on stdout, or on stderr for prose and progress.

    Piped output is as wide as a terminal of 80 columns, so that what is looked at later looks alike.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=False, width=None if stream.isatty() else 80)


def plain(text: str) -> str:
    """Return text of others, such as a process's name, without what a terminal would obey."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in text)


def note(text: str) -> None:
    """Print one line of prose to stderr."""
    click.echo(f"tailbite: {plain(text)}", err=True)


def emit_json(command: str, *, schema_version: int = 1, **fields: Any) -> None:
    """Print one JSON object with its schema, ``tailbite.<command>/<version>``; records are taken as they are."""
    import json

    schema = f"tailbite.{command}/{schema_version}"
    click.echo(json.dumps({"schema": schema, **{k: as_json(v) for k, v in fields.items()}}, indent=2))


def as_json(value: Any) -> Any:
    """Turn records into what JSON has: endpoints and port ranges as their text, enums by label or name."""
    import dataclasses

    from tailbite.core.address import Endpoint, FourTuple
    from tailbite.core.ports import PortRange, PortSet

    if isinstance(value, Endpoint | FourTuple | PortRange | PortSet):
        return str(value)
    if isinstance(value, Enum):
        return getattr(value, "label", value.name.lower().replace("_", "-"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(item) for item in value]
    return value
