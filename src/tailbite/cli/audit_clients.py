"""The clients that ``tailbite audit`` is asked for: from commands, from the catalogue, in container images."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tailbite.audit.catalogue import CatalogueEntry, CatalogueError, load_entries
from tailbite.audit.client import Client, Image, Stdin
from tailbite.cli import status
from tailbite.cli.output import Unsupported, console, emit_json, note, plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "catalogue_clients",
    "check_catalogue",
    "command_clients",
    "list_catalogue",
    "split_words",
    "unpacked_image",
]

_WRAPPERS: Final = re.compile(
    r"env|nice|timeout|sudo|stdbuf|setsid|script|sh|bash|dash|python[\d.]*|pypy[\d.]*|node|ruby[\d.]*|perl[\d.]*"
    r"|php[\d.]*|java|escript|npx|uv|run"
)
"""Programs after which a client is not named, since they start the one that counts."""


def split_words(text: str, option: str) -> tuple[str, ...]:
    """Split a command as a shell does.

    Raises:
        click.UsageError: it cannot be split, is empty, or has no ``{port}``.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise click.UsageError(f"{option} {text!r} cannot be split into words: {error}") from None
    _check_words(words, option)
    return words


def _check_words(words: Sequence[str], option: str) -> None:
    if not any("{port}" in word for word in words):
        example = f": tailbite audit -- {words[0] if words else 'my-client'} {{host}} {{port}}"
        raise click.UsageError(f"{option} must contain {{port}}, where the audit puts the dead port{example}")
    if not words[0].strip():
        raise click.UsageError(f"{option} begins with an empty word; the program comes first")
    if any("\0" in word for word in words):
        raise click.UsageError(f"{option} contains a NUL character")


def command_clients(
    program: tuple[str, ...],
    commands: Sequence[str],
    names: Sequence[str],
    *,
    image: Image | None,
    stdin: Stdin,
    success: str | None,
    failure: str | None,
) -> list[Client]:
    """Return the clients of a command after ``--`` and of each ``--command``, named in order by ``--name``.

    Raises:
        click.UsageError: a command has no ``{port}``, or there are more names than commands.
    """
    every = [program] if program else []
    for words in every:
        _check_words(words, "the command")
    every += [split_words(text, "--command") for text in commands]
    if len(names) > len(every):
        raise click.UsageError(f"there are {len(names)} names for {len(every)} commands; leave out --name, or match")
    for name in names:
        if not name.strip() or not name.isprintable():
            raise click.UsageError(f"--name {name!r} is not a valid name: give one line of text")
    clients: list[Client] = []
    for position, words in enumerate(every):
        name = names[position] if position < len(names) else _unused(default_name(words), clients)
        if any(client.name == name for client in clients):
            raise click.UsageError(f"--name {name!r} is given twice; reports could not tell the clients apart")
        client = Client(name, words, success=success, failure=failure, stdin=stdin)
        clients.append(replace(client, image=image) if image else client)
    return clients


def default_name(words: Sequence[str]) -> str:
    """Return the name of the program that a command runs, past ``env``, shells and interpreters."""
    for position, word in enumerate(words):
        is_option = word.startswith("-") or re.fullmatch(r"\w+=.*", word)
        if word == "-c" and position + 1 < len(words) and Path(words[position - 1]).name in ("sh", "bash", "dash"):
            return _name_in_script(words[position + 1]) or Path(words[0]).name
        if word == "-m" and position + 1 < len(words):
            return words[position + 1]
        if word in ("-c", "-e"):
            break
        if not is_option and not _WRAPPERS.fullmatch(Path(word).name) and "{" not in word:
            return Path(word).name
    return Path(words[0]).name


def _name_in_script(script: str) -> str | None:
    """Return the program that a shell script is, or becomes by ``exec`` in the end; None for another script."""
    statements = re.split(r"[;&|\n]+", script.strip().rstrip(";&"))
    last = statements[-1].split()
    if last[:1] == ["exec"]:
        last = last[1:]
    elif len(statements) > 1:
        return None
    return default_name(last) if last and re.fullmatch(r"[\w./-]+", last[0]) else None


def _unused(name: str, clients: Sequence[Client]) -> str:
    """Return the name, with a number if another client has it already."""
    taken = {client.name for client in clients}
    number = 2
    unused = name
    while unused in taken:
        unused, number = f"{name}-{number}", number + 1
    return unused


def entries_of(wanted: Sequence[str]) -> list[CatalogueEntry]:
    """Return the entries of the catalogue that the words name.

    Raises:
        click.UsageError: a word names nothing, or a file is not as it must be.
    """
    try:
        return load_entries(wanted)
    except CatalogueError as error:
        raise click.UsageError("; ".join(str(error).splitlines())) from None


def find_installed(entries: Sequence[CatalogueEntry]) -> list[tuple[CatalogueEntry, Client | None]]:
    """Return each entry with its client, or with None if it is not installed here.

    Programs tell their versions side by side: most of the time is theirs.
    """
    from concurrent.futures import ThreadPoolExecutor

    workers = min(len(entries), 2 * len(os.sched_getaffinity(0)))
    with console(stderr=True).status("Looking for installed clients ..."), ThreadPoolExecutor(workers) as pool:
        return list(zip(entries, pool.map(CatalogueEntry.find, entries), strict=True))


def catalogue_clients(wanted: Sequence[str]) -> list[Client]:
    """Return the installed clients that the words name; those that are not installed are named on stderr.

    Raises:
        click.UsageError: see :func:`entries_of`.
        Unsupported: none is installed.
    """
    found = find_installed(entries_of(wanted))
    clients = [client for _, client in found if client is not None]
    missing = [entry.name for entry, client in found if client is None]
    if missing:
        note(f"not installed here: {', '.join(missing)}")
    if not clients:
        raise Unsupported("none of these clients is installed here; tailbite audit --list shows what would be needed")
    return clients


@contextlib.contextmanager
def unpacked_image(name: str | None) -> Iterator[Image | None]:
    """Unpack the container image, if there is one.

    Raises:
        click.UsageError: the image cannot be pulled or unpacked.
        Unsupported: there is no engine.
    """
    if name is None:
        yield None
        return
    from tailbite.audit.image import ImageError, find_engine, unpacked

    try:
        engine = find_engine()
    except ImageError as error:
        raise Unsupported(str(error)) from None
    with contextlib.ExitStack() as stack:
        try:
            with console(stderr=True).status(f"Unpacking {plain(name)} ..."):
                image = stack.enter_context(unpacked(name, engine))
        except ImageError as error:
            raise click.UsageError(f"--image {name}: {error}") from None
        yield image


def list_catalogue(wanted: Sequence[str], output: str) -> int:
    """Print the entries that the words name, with what is installed of them; return the exit status."""
    found = find_installed(entries_of(wanted or ("all",)))
    if output == "json":
        emit_json(
            "audit-list",
            clients=[
                {
                    "client": entry.name,
                    "title": entry.title,
                    "groups": list(entry.groups),
                    "installed": client is not None,
                    "version": client.version if client else None,
                    "install": entry.install,
                }
                for entry, client in found
            ],
        )
        return status.FINE
    from tailbite.cli.show.audit import print_catalogue

    print_catalogue(found)
    return status.FINE


def check_catalogue(wanted: Sequence[str], output: str) -> int:
    """Print the faults of the entries that the words name; return the exit status."""
    from tailbite.audit.lint import check

    entries = entries_of(wanted or ("all",))
    faults = [fault for entry in entries for fault in check(entry)]
    if output == "json":
        emit_json("audit-check", entries=len(entries), faults=faults)
    else:
        for fault in faults:
            click.echo(str(fault))
        note(f"{len(faults)} faults in {len(entries)} entries")
    return status.FOUND if faults else status.FINE
