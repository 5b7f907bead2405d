"""The catalogue: clients as TOML files, one each. ``docs/catalogue.md`` is the format for people.

The package brings its own (``catalogue/*.toml``); users give files or folders of theirs. Reading is strict: an
unknown key is an error that names file, key and reason, since a misspelt ``sucess`` would change verdicts silently.
"""

from __future__ import annotations

import difflib
import re
import sys
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tailbite._files import read_whole
from tailbite.audit.client import Client, Driver, Stdin
from tailbite.audit.installed import Found, Requirement, look_for
from tailbite.audit.toml_table import Table, raise_all
from tailbite.errors import CatalogueError

if sys.version_info >= (3, 11):  # noqa: UP036 - the single file runs on Python 3.10 as well
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.resources.abc import Traversable

__all__ = ["CatalogueEntry", "CatalogueError", "load_entries", "parse_entry"]

HOME: Final = files("tailbite.audit").joinpath("catalogue")
"""The folder of the package's own files; inside a zip file, if the package is."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.+_-]*")
_LIMITS = ("dial", "watch", "hold", "total")


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One client of the catalogue, installed or not.

    Attributes:
        name: unique in the catalogue.
        title: one line for people.
        groups: other names for ``--catalogue``.
        requirement: the programs, packages or files by which it is found, and its version.
        install: the source of the package, such as ``apt: redis-tools``.
        client: the client; the placeholders for what is found are not filled in yet.
        differs: how it is run otherwise than at its defaults, and why; "" if it is not.
        source: the file.
    """

    name: str
    title: str
    groups: tuple[str, ...]
    requirement: Requirement
    install: str
    client: Client
    differs: str
    source: Traversable = field(compare=False)

    def find(self) -> Client | None:
        """Return the client as it is run here, or None if it is not installed."""
        found = look_for(self.requirement)
        return None if found is None else _completed(self.client, found)


def _completed(client: Client, found: Found) -> Client:
    def fill(text: str) -> str:
        for placeholder, value in found.placeholders.items():
            text = text.replace(placeholder, value)
        return text

    driver = client.driver
    environment = {name: fill(value) for name, value in client.environment.items()}
    return replace(
        client,
        command=tuple(map(fill, client.command)),
        version=found.version,
        files={name: fill(content) for name, content in client.files.items()},
        environment={**found.environment, **environment},
        prepare=tuple(map(fill, client.prepare)),
        driver=driver and replace(driver, command=tuple(map(fill, driver.command))),
    )


def load_entries(wanted: Sequence[str]) -> list[CatalogueEntry]:
    """Return the entries that these words name: ``all``, a group, a client, a file or a folder of files.

    Raises:
        CatalogueError: a word names nothing, or files are not as they must be; it has all errors of all files.
    """
    own: list[CatalogueEntry] | None = None
    entries: dict[str, CatalogueEntry] = {}
    errors: list[CatalogueError] = []
    for word in wanted:
        path = Path(word)
        try:
            if word.endswith(".toml") or "/" in word:
                found = _read_path(path)
            else:
                # A name of the catalogue goes before a folder of the same name that happens to be here.
                own = own if own is not None else _read_folder(HOME)
                found = [e for e in own if word in ("all", e.name, *e.groups)]
                if not found and not (word and path.is_dir()):
                    raise CatalogueError("catalogue", None, _unknown(word, own))
                found = found or _read_path(path)
        except CatalogueError as error:
            errors.append(error)
            continue
        for entry in found:
            other = entries.setdefault(entry.name, entry)
            if str(other.source) != str(entry.source):
                reason = f"{entry.name!r} is also the name in {other.source}"
                errors.append(CatalogueError(str(entry.source), "name", reason))
    raise_all(errors)
    return sorted(entries.values(), key=lambda entry: (entry.groups[:1], entry.name))


def _unknown(word: str, entries: Sequence[CatalogueEntry]) -> str:
    groups = sorted({group for entry in entries for group in entry.groups})
    near = difflib.get_close_matches(word, [*groups, *(entry.name for entry in entries)], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; the groups are {', '.join(groups)}"
    return f"{word!r} is neither a client nor a group{hint}"


def _read_path(path: Path) -> list[CatalogueEntry]:
    return _read_folder(path) if path.is_dir() else [_read_file(path)]


def _read_folder(folder: Traversable) -> list[CatalogueEntry]:
    """Read every file of a folder; the errors of all of them are raised together."""
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    if not files:
        raise CatalogueError(str(folder), None, "there is no *.toml file in this folder")
    entries: list[CatalogueEntry] = []
    errors: list[CatalogueError] = []
    for file in files:
        try:
            entries.append(_read_file(file))
        except CatalogueError as error:
            errors.append(error)
    raise_all(errors)
    return entries


def _read_file(file: Traversable) -> CatalogueEntry:
    try:
        text = (read_whole(file) if isinstance(file, Path) else file.read_bytes()).decode()
    except OSError as error:
        raise CatalogueError(str(file), None, error.strerror or "it cannot be read") from None
    except UnicodeDecodeError:
        raise CatalogueError(str(file), None, "it is not UTF-8") from None
    return parse_entry(text, file)


def parse_entry(text: str, file: Traversable) -> CatalogueEntry:
    """Read one entry. Pure: ``file`` is only the name for errors.

    Raises:
        CatalogueError: the text is not as it must be; it has all errors.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(str(file), None, f"it is not valid TOML: {error}") from None
    table = Table(str(file), "", values, [])
    name = table.text("name")
    if name and not _NAME.fullmatch(name):
        table.add_error("name", f"{name!r} must be lower-case letters, digits and any of . + _ -")
    groups = table.words("groups")
    if "all" in groups:
        table.add_error("groups", "'all' is every client; it cannot be a group")
    client = _client(table, name, groups)
    title = table.text("title", default=name or "unnamed")
    differs = table.text("differs", default=" ").strip()
    installed = table.table("installed")
    requirement = _requirement(installed) if installed else Requirement()
    entry = CatalogueEntry(name, title, groups, requirement, table.text("install"), client, differs, file)
    table.finish()
    raise_all(table.errors)
    return entry


def _client(table: Table, name: str, groups: tuple[str, ...]) -> Client:
    driver = table.table("driver", optional=True)
    stdin = table.text("stdin", default=Stdin.SILENT.value)
    if stdin not in [kind.value for kind in Stdin]:
        table.add_error("stdin", f"{stdin!r} must be one of {', '.join(kind.value for kind in Stdin)}")
        stdin = Stdin.SILENT.value
    client = Client(
        name=name,
        command=table.words("command"),
        files=table.strings("files"),
        environment=table.strings("environment"),
        stdin=Stdin(stdin),
        prepare=table.words("prepare", optional=True),
        driver=_driver(driver) if driver else None,
        success=table.pattern("success"),
        failure=table.pattern("failure"),
        in_scratch=True,
        limits=_limits(table.table("limits", optional=True)),
        groups=groups,
    )
    for path in client.files:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            table.add_error(f"files.{path}", "it must lie in the scratch folder")
    driving = client.driver.command if client.driver else ()
    texts = [*client.command, *client.files.values(), *client.environment.values(), *driving]
    if client.command and not any("{port}" in text for text in texts):
        table.add_error("command", "{port} stands nowhere in command, files, environment or driver")
    return client


def _requirement(table: Table) -> Requirement:
    requirement = Requirement(
        programs=table.words("programs", optional=True),
        python=table.text("python", default=" ").strip() or None,
        node=table.text("node", default=" ").strip() or None,
        files=table.words("files", optional=True),
        version=table.words("version", optional=True),
        pattern=table.pattern("pattern") or r"\d+(?:\.\d+)+\w*",
    )
    if not (requirement.programs or requirement.python or requirement.node or requirement.files):
        table.add_error("programs", "say what is needed: programs, python, node or files")
    table.finish()
    return requirement


def _driver(table: Table) -> Driver:
    ready = table.text("ready", default=" ").strip() or None
    driver = Driver(table.words("command"), table.seconds("every"), ready)
    table.finish()
    return driver


def _limits(table: Table | None) -> dict[str, float]:
    if table is None:
        return {}
    limits = {name: value for name in _LIMITS if (value := table.seconds(name)) is not None}
    table.finish()
    return limits
