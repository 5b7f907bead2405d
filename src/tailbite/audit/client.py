"""The client under audit, as records: its command, its driver, its container image."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Client", "Driver", "Image", "Stdin"]


class Stdin(Enum):
    """A client's standard input."""

    SILENT = "silent"
    """A pipe that stays open and never says anything: a user who does not type."""
    EMPTY = "empty"
    """End of file at once."""


@dataclass(frozen=True, slots=True)
class Driver:
    """A second program that makes a daemon under audit dial, over a unix socket so as to use up no port of the trap.

    Attributes:
        command: what to run; the same placeholders as in :class:`Client`.
        every: seconds between two runs; None runs it once.
        ready: a path that appears when the daemon can be driven.
    """

    command: tuple[str, ...]
    every: float | None = None
    ready: str | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """A container image that is unpacked.

    Attributes:
        name: the image, as podman and docker call it.
        root: the folder of its file system.
        entrypoint: the words that come before the command.
        environment: its variables.
        folder: the folder inside it in which the command runs.
        user: a user, or user:group, by number or by name; "" for root.
    """

    name: str
    root: str
    entrypoint: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """A program under audit.

    ``{host}``, ``{port}``, ``{dir}`` (a scratch directory of this run) and ``{python}`` (an interpreter) are filled
    in, in commands, files and environment.

    Attributes:
        name: what the report calls it.
        command: program and arguments.
        version: what it says of itself; "" if not known.
        files: contents by path below the scratch directory, such as a daemon's configuration.
        environment: variables that are set for it.
        stdin: what it finds on its standard input.
        prepare: a command that is run once before the first trap, such as a compiler; it finds the files in its
            folder, which ``{build}`` stands for in the other commands.
        driver: what makes it dial, if it does not by itself.
        success: a regular expression; output that matches it claims a connection.
        failure: a regular expression; output that matches it denies one.
        in_scratch: True to run it in the scratch directory (as home, too), False where tailbite was called.
        limits: those of :class:`Limits` that this client needs longer, such as ``dial`` for a slow starter.
        groups: names for ``--catalogue``.
        image: the container image it runs in; None for none.
    """

    name: str
    command: tuple[str, ...]
    version: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: Stdin = Stdin.SILENT
    prepare: tuple[str, ...] = ()
    driver: Driver | None = None
    success: str | None = None
    failure: str | None = None
    in_scratch: bool = False
    limits: Mapping[str, float] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    image: Image | None = None
