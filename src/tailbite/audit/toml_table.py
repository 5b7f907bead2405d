"""A TOML table that is read key by key, and collects all that is wrong with it."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

from tailbite.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Table", "raise_all"]


def raise_all(errors: list[CatalogueError]) -> None:
    """Raise the first of the errors, with the others in it; do nothing if the list is empty.

    Raises:
        CatalogueError: there is one.
    """
    if errors:
        first, *others = (flat for error in errors for flat in (_alone(error), *error.others))
        raise CatalogueError(first.file, first.key, first.reason, tuple(others))


def _alone(error: CatalogueError) -> CatalogueError:
    return CatalogueError(error.file, error.key, error.reason)


class Table:
    """A TOML table that is read key by key; a key that is left in the end is an error.

    Args:
        file: the name for errors.
        prefix: the names of the tables it lies in, with a dot after each.
        values: the table.
        errors: the list to which errors are added; a value that is wrong reads as an empty one.
    """

    def __init__(self, file: str, prefix: str, values: Mapping[str, Any], errors: list[CatalogueError]) -> None:
        self._file = file
        self._prefix = prefix
        self._left = dict(values)
        self._known: list[str] = []
        self.errors = errors

    def add_error(self, key: str, reason: str) -> None:
        """Note that something is wrong with a key."""
        self.errors.append(CatalogueError(self._file, self._prefix + key, reason))

    def _take_value(self, key: str) -> Any:
        self._known.append(key)
        return self._left.pop(key, None)

    def text(self, key: str, *, default: str | None = None) -> str:
        """Read a text."""
        value = self._take_value(key)
        if value is None:
            if default is None:
                self.add_error(key, "it is missing")
            return default or ""
        if not isinstance(value, str) or not value.strip():
            self.add_error(key, "it must be text")
            return default or ""
        return value

    def words(self, key: str, *, optional: bool = False) -> tuple[str, ...]:
        """Read a list of texts."""
        value = self._take_value(key)
        if value is None:
            if not optional:
                self.add_error(key, "it is missing")
            return ()
        if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
            self.add_error(key, "it must be a list of texts")
            return ()
        if any("\0" in word for word in value):
            self.add_error(key, "it contains a NUL character")
            return ()
        return tuple(value)

    def strings(self, key: str) -> dict[str, str]:
        """Read a table of texts; an empty one if it is missing."""
        value = self._take_value(key)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            self.add_error(key, "it must be a table of texts")
            return {}
        return value

    def seconds(self, key: str) -> float | None:
        """Read a number of seconds; None if it is missing."""
        value = self._take_value(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 600:
            self.add_error(key, "it must be a number of seconds, more than 0 and at most 600")
            return None
        return float(value)

    def pattern(self, key: str) -> str | None:
        """Read a regular expression; None if it is missing."""
        value = self._take_value(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self.add_error(key, "it must be a regular expression in text")
            return None
        try:
            re.compile(value)
        except re.error as error:
            self.add_error(key, f"it is not a valid regular expression: {error}")
            return None
        return value

    def table(self, key: str, *, optional: bool = False) -> Table | None:
        """Read a table inside this one; None if it is missing."""
        value = self._take_value(key)
        if value is None:
            if not optional:
                self.add_error(key, "this table is missing")
            return None
        if not isinstance(value, dict):
            self.add_error(key, "it must be a table")
            return None
        return Table(self._file, f"{self._prefix}{key}.", value, self.errors)

    def finish(self) -> None:
        """Note every key that was not read."""
        for key in self._left:
            near = difflib.get_close_matches(key, self._known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(self._known))}"
            self.add_error(key, f"it is not known{hint}")
