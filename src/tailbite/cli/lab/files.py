"""Files of an experiment (data to write, data to read, figure) and their options, common to all experiments."""

from __future__ import annotations

import functools
import os
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from tailbite._extras import missing
from tailbite.cli.output import Unsupported, note
from tailbite.lab.record import NotARecord, Record, read_record, write_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FIGURE", "Files", "check_folder", "experiment", "writing"]

_FILE = click.Path(dir_okay=False, path_type=Path)
_T = TypeVar("_T")
_F = TypeVar("_F", bound="Callable[..., Any]")

FIGURE = click.option(
    "--figure", type=_FILE, metavar="NAME", help="Draw NAME.svg and NAME.png (needs the 'lab' extra)."
)
_OPTIONS = (
    click.option("--data", type=_FILE, help="Store the measurements as JSON lines."),
    click.option(
        "--from",
        "stored",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Use the data of this file instead of measuring.",
    ),
    FIGURE,
    click.option("-j", "--json", "as_json", is_flag=True, help="Print the result as one JSON object."),
)
_OF_OUTPUT = frozenset({"stored", "figure", "as_json", "mermaid"})
"""Parameters that are allowed beside --from; every other option is about the measurement."""


def experiment(name: str) -> Callable[[_F], Callable[..., Any]]:
    """Add --data, --from and --figure to a command as one argument ``files``, and --json as ``as_json``."""

    def decorate(command: _F) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(*arguments: Any, data: Path | None, stored: Path | None, figure: Path | None, **others: Any) -> Any:
            files = Files(name, data, stored, figure)
            files.check()
            return command(*arguments, files=files, **others)

        return functools.reduce(lambda inner, option: option(inner), reversed(_OPTIONS), run)

    return decorate


@dataclass(frozen=True, slots=True)
class Files:
    """Files that the user named.

    Attributes:
        experiment: name of the experiment: ``loop``, ``cures``, ...
        data: file to store the record in.
        stored: file to read the record from, instead of measuring.
        figure: path of the figure without its suffix.
    """

    experiment: str
    data: Path | None = None
    stored: Path | None = None
    figure: Path | None = None

    def check(self) -> None:
        """Fail before the measurement if its files could not be written, or if options contradict --from."""
        if self.figure is not None:
            if find_spec("matplotlib") is None or find_spec("numpy") is None:
                raise Unsupported(missing("figures", "lab"))
            check_folder(self.figure)
        if self.data is not None:
            check_folder(self.data)
        if self.stored is not None:
            ctx = click.get_current_context()
            for param in ctx.command.params:
                given = param.name and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
                if given and param.name not in _OF_OUTPUT:
                    raise click.UsageError(f"--from uses stored data and measures nothing: leave out {param.opts[0]}")

    def read(self, parse: Callable[[Record], _T]) -> tuple[Record, _T]:
        """Read the stored record.

        Raises:
            click.UsageError: the file cannot be read, or is not such a record.
        """
        assert self.stored is not None
        try:
            record = read_record(self.stored, self.experiment)
        except NotARecord as error:
            raise click.UsageError(str(error)) from error
        except OSError as error:
            raise click.UsageError(f"{self.stored} cannot be read: {error.strerror}") from error
        try:
            return record, parse(record)
        except NotARecord as error:
            raise click.UsageError(f"{self.stored}: {error}") from error

    def store(self, record: Record) -> None:
        """Store the record if --data names a file."""
        if self.data is not None:
            with writing():
                write_record(self.data, record)
            note(f"data: {self.data}")

    def draw_figure(self, drawing: Callable[[Path], tuple[Path, ...]]) -> None:
        """Draw the figure, and print its path."""
        assert self.figure is not None
        with writing():
            first, *others = drawing(self.figure)
        note(f"figure: {first} and {', '.join(path.name for path in others)}")


def check_folder(path: Path) -> None:
    """Fail before the measurement if the file could not be written afterwards."""
    if not path.parent.is_dir():
        raise click.UsageError(f"there is no folder {path.parent} to write {path.name} to")
    if not os.access(path.parent, os.W_OK):
        raise click.UsageError(f"{path.name} cannot be written to {path.parent}: permission denied")


@contextmanager
def writing() -> Iterator[None]:
    """Replace the error of a file that cannot be written by a usage error."""
    try:
        yield
    except OSError as error:
        raise click.UsageError(f"{error.filename or 'the file'} cannot be written: {error.strerror}") from error
