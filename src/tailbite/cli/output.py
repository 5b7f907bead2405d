"""Output that all commands share: tables and prose for people, JSON for programs.

Tables and JSON go to stdout, notes to stderr. Colour is rich's decision: only on a terminal, and no escape sequence
at all with NO_COLOR set (https://no-color.org). Output that is piped is not wrapped, or as wide as COLUMNS says, and
has no blanks at the end of a line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from enum import Enum
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

import click

from tailbite.cli import status

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Unsupported",
    "as_json",
    "console",
    "emit_json",
    "note",
    "plain",
    "print_to_stderr",
    "reason_of",
    "wrapped",
]

_UNLIMITED = 10_000  # columns of what is piped
_WIDEST = 100  # columns of prose on a wide terminal: longer lines are hard to read


class Unsupported(click.ClickException):
    """The system lacks what the command needs; exit status 4."""

    exit_code = status.UNSUPPORTED


class _Trimmed:
    """A text stream that drops blanks at the end of each line: rich pads the cells of a table."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._line = ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._stream.write(f"{line.rstrip(' ')}\n")
        return len(text)

    def flush(self) -> None:
        self._stream.write(self._line)
        self._line = ""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def console(*, stderr: bool = False) -> Console:
    """Return a rich console on stdout, or on stderr for prose and progress."""
    from rich.console import Console

    class OurConsole(Console):
        def on_broken_pipe(self) -> NoReturn:
            """Leave a reader that went away to the command: rich would exit with status 1, which means "found"."""
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        plain_text = bool(os.environ.get("NO_COLOR"))
        made = OurConsole(
            stderr=stderr, highlight=False, soft_wrap=False, color_system=None if plain_text else "auto"
        )
        if made.width > _WIDEST:
            made.width = _WIDEST
        return made
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isascii() and columns.isdigit() and int(columns) else _UNLIMITED
    return OurConsole(file=cast("IO[str]", _Trimmed(stream)), highlight=False, soft_wrap=False, width=width)


def plain(text: str) -> str:
    """Return text of others, such as a process's name, without what a terminal would obey."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in text)


def note(text: str) -> None:
    """Print a note to stderr, wrapped at words on a terminal."""
    print_to_stderr(wrapped(f"tailbite: {plain(text)}", sys.stderr))


def wrapped(line: str, stream: IO[str] | None) -> str:
    """Return a line that is wrapped at words if the stream is a terminal."""
    if stream is None or not stream.isatty():
        return line
    import shutil
    import textwrap

    width = max(20, shutil.get_terminal_size().columns)
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)


def reason_of(error: Exception, *, with_file: bool = False) -> str:
    """Return what went wrong in the system's words, without "[Errno N]"; ``with_file``: after the file's name."""
    reason = getattr(error, "strerror", None) or str(error)
    file = getattr(error, "filename", None) if with_file else None
    return f"{file}: {reason}" if file else reason


def print_to_stderr(line: str) -> None:
    """Print a line to stderr, if it can be written: no command fails because its notes cannot be read."""
    with contextlib.suppress(OSError):
        click.echo(line, err=True)


def emit_json(command: str, *, schema_version: int = 1, **fields: Any) -> None:
    """Print one JSON object with its schema, ``tailbite.<command>/<version>``; records are taken as they are."""
    from tailbite.core.json_text import to_json

    schema = f"tailbite.{command}/{schema_version}"
    click.echo(to_json({"schema": schema, **{k: as_json(v) for k, v in fields.items()}}, indent=2))


def as_json(value: Any) -> Any:
    """Turn records into JSON: endpoints, port ranges and paths as their text, enums by label or name."""
    import dataclasses
    from pathlib import PurePath

    from tailbite.core.address import Endpoint, FourTuple
    from tailbite.core.ports import PortRange, PortSet

    if isinstance(value, Endpoint | FourTuple | PortRange | PortSet | PurePath):
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
