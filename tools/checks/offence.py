"""The record that every check yields, and the files that the checks read."""

from __future__ import annotations

import ast
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Offence", "module_name", "modules", "parsed", "tracked"]


@dataclass(frozen=True, slots=True)
class Offence:
    """One place that breaks a rule.

    Attributes:
        check: name of the check.
        path: file, relative to the repository.
        line: line number, 0 for the whole file.
        message: the rule, with the words or the figure that break it.
    """

    check: str
    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.check}: {self.message}"


@cache
def tracked(root: Path) -> tuple[Path, ...]:
    """Return the files of the repository that exist: tracked ones, and new ones that are not ignored.

    Without git, or in an unpacked archive: all files outside hidden folders and caches.
    """
    command = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    if shutil.which("git") and (root / ".git").exists():
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return tuple(sorted(path for name in set(listing.split("\0")) if name and (path := root / name).is_file()))
    inside = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return tuple(sorted(path for path in inside if not _is_hidden(path.relative_to(root))))


def _is_hidden(path: Path) -> bool:
    """Tell whether a folder on the way is hidden, such as .venv; .ci is ours."""
    return any(part.startswith(".") and part != ".ci" for part in path.parts[:-1])


def modules(root: Path, *folders: str) -> Iterator[tuple[str, Path]]:
    """Yield the Python files below the folders, each with its path relative to the repository."""
    for path in tracked(root):
        relative = path.relative_to(root).as_posix()
        if path.suffix == ".py" and relative.startswith(tuple(f"{folder}/" for folder in folders)):
            yield relative, path


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(relative: str) -> str:
    """Return the dotted name of a module of the product: ``src/tailbite/core/plan.py`` is ``tailbite.core.plan``."""
    return relative.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
