"""``tailbite lab``: experiments on this kernel, their data and their pictures."""

from __future__ import annotations

import contextlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tailbite.cli.group import LazyGroup
from tailbite.cli.output import Unsupported, note
from tailbite.errors import NamespaceUnavailable
from tailbite.kernel.namespace import enter_private_network
from tailbite.lab.record import NotARecord, Record, read_record, write_record

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FIGURE", "STORE", "STORED", "command", "need_figures", "private_network", "saved", "stored"]

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "loop": ("tailbite.cli.lab_loop", "The story's loop at full speed, counted, against the model."),
    "parity": ("tailbite.cli.lab_parity", "Which ports are drawn at all: model against kernel."),
    "odds": ("tailbite.cli.lab_odds", "Can it happen here, when, and how often in a fleet."),
    "handshake": ("tailbite.cli.lab_handshake", "One self-connect on the wire, beside an ordinary handshake."),
    "cures": ("tailbite.cli.lab_cures", "The strategies of clients side by side, under a storm."),
}


@click.group("lab", cls=LazyGroup, commands=COMMANDS, no_args_is_help=True)
def command() -> None:
    """Measure why it happens, how often, and which cure helps.

    Every experiment runs on this kernel in a private network (nothing outside is touched, no root needed), stores
    its data as JSON lines (--data FILE), and draws from data (--figure NAME makes NAME.svg and NAME.png; --from FILE
    draws stored data without measuring again).
    """


STORE = click.option(
    "--data", "data", type=click.Path(dir_okay=False, path_type=Path), help="Store what was measured, as JSON lines."
)
STORED = click.option(
    "--from",
    "stored_data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure nothing: use the data of this file.",
)
FIGURE = click.option(
    "--figure",
    "stem",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="NAME",
    help="Draw NAME.svg and NAME.png (needs the 'lab' extra).",
)


def need_figures(stem: Path | None) -> None:
    """Fail before anything is measured if the picture could not be drawn afterwards."""
    if stem is None:
        return
    if find_spec("matplotlib") is None or find_spec("numpy") is None:
        raise Unsupported("pictures need the 'lab' extra; install it with: pip install 'tailbite[lab]'")
    need_folder(stem)


def need_folder(path: Path) -> None:
    """Fail before anything is measured if the file could not be written afterwards."""
    if not path.parent.is_dir():
        raise click.UsageError(f"there is no folder {path.parent} to write {path.name} to")
    if not os.access(path.parent, os.W_OK):
        raise click.UsageError(f"you may not write {path.name} to {path.parent}")


def private_network(purpose: str) -> None:
    """Move this process into a network of its own."""
    try:
        enter_private_network()
    except NamespaceUnavailable as error:
        raise Unsupported(f"{error}; {purpose} is measured in a private network") from error


def stored(path: Path, experiment: str) -> Record:
    """Read a record, or say in a sentence why not."""
    try:
        return read_record(path, experiment)
    except NotARecord as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from error


def save_record(path: Path | None, record: Record) -> None:
    """Write a record if asked for."""
    if path is not None:
        with saved():
            write_record(path, record)
        note(f"data: {path}")


@contextlib.contextmanager
def saved() -> Iterator[None]:
    """Turn a file that cannot be written into a sentence."""
    try:
        yield
    except OSError as error:
        raise click.UsageError(f"{error.filename or 'the file'} cannot be written: {error.strerror}") from error


def drawn(paths: tuple[Path, Path]) -> None:
    """Say where the pictures are."""
    note(f"figure: {paths[0]} and {paths[1].name}")
