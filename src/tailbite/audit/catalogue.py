"""The catalogue: clients as TOML files, one each. ``docs/catalogue.md`` is the format for people.

The package brings its own (``catalogue/*.toml``); users give files or folders of theirs. Reading is strict: an
unknown key is an error that names file, key and reason, since a misspelt ``sucess`` would change verdicts silently.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tailbite.audit.installed import Found, Requirement, look_for
from tailbite.audit.records import Client, Driver, Stdin
from tailbite.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["CatalogueError", "Entry", "load", "parse"]

HOME: Final = Path(__file__).with_name("catalogue")
"""Where the package's own files are."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.+_-]*")
_LIMITS = ("dial", "watch", "hold", "total")


@dataclass(frozen=True, slots=True)
class Entry:
    """One client of the catalogue, installed or not.

    Attributes:
        name: unique in the catalogue.
        title: one line for people.
        groups: what ``--catalogue`` also finds it by.
        requirement: how to know that it is installed, and in which version.
        install: where to get it, such as ``apt: redis-tools``.
        client: what to run; placeholders for what is found stand open.
        source: the file.
    """

    name: str
    title: str
    groups: tuple[str, ...]
    requirement: Requirement
    install: str
    client: Client
    source: Path = field(compare=False)

    def find(self) -> Client | None:
        """Return the client as it is to be run here, or None if it is not installed."""
        found = look_for(self.requirement)
        return None if found is None else _completed(self.client, found)


def _completed(client: Client, found: Found) -> Client:
    def fill(text: str) -> str:
        for placeholder, value in found.placeholders.items():
            text = text.replace(placeholder, value)
        return text

    driver = client.driver
    return Client(
        name=client.name,
        command=tuple(map(fill, client.command)),
        version=found.version,
        files={name: fill(content) for name, content in client.files.items()},
        environment={
            **found.environment,
            **{name: fill(value) for name, value in client.environment.items()},
        },
        stdin=client.stdin,
        prepare=tuple(map(fill, client.prepare)),
        driver=driver and Driver(tuple(map(fill, driver.command)), driver.every, driver.ready),
        success=client.success,
        failure=client.failure,
        in_scratch=True,
        limits=client.limits,
        groups=client.groups,
    )


def load(wanted: Sequence[str]) -> list[Entry]:
    """Return the entries that these words name: ``all``, a group, a client, a file or a folder of files.

    Raises:
        CatalogueError: a word names nothing, or a file is not as it must be.
    """
    own: list[Entry] | None = None
    entries: dict[str, Entry] = {}
    for word in wanted:
        path = Path(word)
        if word.endswith(".toml") or "/" in word or path.is_dir():
            found = _read_path(path)
        else:
            own = own if own is not None else _read_folder(HOME)
            found = [e for e in own if word in ("all", e.name, *e.groups)]
            if not found:
                raise CatalogueError("catalogue", None, _unknown(word, own))
        for entry in found:
            other = entries.setdefault(entry.name, entry)
            if other.source != entry.source:
                raise CatalogueError(str(entry.source), "name", f"{entry.name!r} is also the name in {other.source}")
    return sorted(entries.values(), key=lambda entry: (entry.groups[:1], entry.name))


def _unknown(word: str, entries: Sequence[Entry]) -> str:
    groups = sorted({group for entry in entries for group in entry.groups})
    near = difflib.get_close_matches(word, [*groups, *(entry.name for entry in entries)], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; the groups are {', '.join(groups)}"
    return f"{word!r} is neither a client nor a group{hint}"


def _read_path(path: Path) -> list[Entry]:
    return _read_folder(path) if path.is_dir() else [_read_file(path)]


def _read_folder(folder: Path) -> list[Entry]:
    files = sorted(folder.glob("*.toml"))
    if not files:
        raise CatalogueError(str(folder), None, "there is no *.toml file in this folder")
    return [_read_file(file) for file in files]


def _read_file(file: Path) -> Entry:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise CatalogueError(str(file), None, error.strerror or "it cannot be read") from None
    except UnicodeDecodeError:
        raise CatalogueError(str(file), None, "it is not UTF-8") from None
    return parse(text, file)


def parse(text: str, file: Path) -> Entry:
    """Read one entry. Pure: ``file`` is only the name for errors.

    Raises:
        CatalogueError: the text is not as it must be.
    """
    try:
        table = _Table(str(file), "", tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(str(file), None, f"it is no TOML: {error}") from None
    name = table.text("name")
    if not _NAME.fullmatch(name):
        raise table.error("name", f"{name!r} must be lower-case letters, digits and any of . + _ -")
    groups = table.words("groups")
    if "all" in groups:
        raise table.error("groups", "'all' is every client; it cannot be a group")
    requirement = _requirement(table.table("installed"))
    driver = table.table("driver", optional=True)
    stdin = table.text("stdin", default=Stdin.SILENT.value)
    if stdin not in [kind.value for kind in Stdin]:
        raise table.error("stdin", f"{stdin!r} must be one of {', '.join(kind.value for kind in Stdin)}")
    command = table.words("command")
    client = Client(
        name=name,
        command=command,
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
            raise table.error(f"files.{path}", "it must lie in the scratch folder")
    texts = [
        *command,
        *client.files.values(),
        *client.environment.values(),
        *(client.driver.command if client.driver else ()),
    ]
    if not any("{port}" in text for text in texts):
        raise table.error(
            "command", "{port} stands nowhere in command, files, environment and driver: it dials nothing"
        )
    entry = Entry(name, table.text("title", default=name), groups, requirement, table.text("install"), client, file)
    table.finish()
    return entry


def _requirement(table: _Table | None) -> Requirement:
    assert table is not None
    requirement = Requirement(
        programs=table.words("programs", optional=True),
        python=table.text("python", default="") or None,
        node=table.text("node", default="") or None,
        files=table.words("files", optional=True),
        version=table.words("version", optional=True),
        pattern=table.pattern("pattern") or r"\d+(?:\.\d+)+\w*",
    )
    if not (requirement.programs or requirement.python or requirement.node or requirement.files):
        raise table.error("programs", "say what is needed: programs, python, node or files")
    table.finish()
    return requirement


def _driver(table: _Table) -> Driver:
    driver = Driver(table.words("command"), table.seconds("every"), table.text("ready", default="") or None)
    table.finish()
    return driver


def _limits(table: _Table | None) -> dict[str, float]:
    if table is None:
        return {}
    limits = {name: value for name in _LIMITS if (value := table.seconds(name)) is not None}
    table.finish()
    return limits


class _Table:
    """A TOML table that is read key by key; what is left in the end is an error."""

    def __init__(self, file: str, prefix: str, values: Mapping[str, Any]) -> None:
        self._file = file
        self._prefix = prefix
        self._left = dict(values)
        self._known: list[str] = []

    def error(self, key: str, reason: str) -> CatalogueError:
        return CatalogueError(self._file, self._prefix + key, reason)

    def _take(self, key: str) -> Any:
        self._known.append(key)
        return self._left.pop(key, None)

    def text(self, key: str, *, default: str | None = None) -> str:
        value = self._take(key)
        if value is None:
            if default is None:
                raise self.error(key, "it is missing")
            return default
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, "it must be text")
        return value

    def words(self, key: str, *, optional: bool = False) -> tuple[str, ...]:
        value = self._take(key)
        if value is None and optional:
            return ()
        if value is None:
            raise self.error(key, "it is missing")
        if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
            raise self.error(key, "it must be a list of texts")
        if any("\0" in word for word in value):
            raise self.error(key, "it contains a NUL character")
        return tuple(value)

    def strings(self, key: str) -> dict[str, str]:
        value = self._take(key)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise self.error(key, "it must be a table of texts")
        return value

    def seconds(self, key: str) -> float | None:
        value = self._take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 600:
            raise self.error(key, "it must be a number of seconds, more than 0 and at most 600")
        return float(value)

    def pattern(self, key: str) -> str | None:
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.error(key, "it must be a regular expression in text")
        try:
            re.compile(value)
        except re.error as error:
            raise self.error(key, f"it is no regular expression: {error}") from None
        return value

    def table(self, key: str, *, optional: bool = False) -> _Table | None:
        value = self._take(key)
        if value is None and optional:
            return None
        if value is None:
            raise self.error(key, "this table is missing")
        if not isinstance(value, dict):
            raise self.error(key, "it must be a table")
        return _Table(self._file, f"{self._prefix}{key}.", value)

    def finish(self) -> None:
        for key in self._left:
            near = difflib.get_close_matches(key, self._known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(self._known))}"
            raise self.error(key, f"it is not known{hint}")
