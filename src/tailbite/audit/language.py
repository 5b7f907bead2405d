"""The language a client is written in, as far as its command shows, and the page with the cure for that language.

The pages are ``docs/howto/cure-your-client``; a wheel carries them as package data, ``tailbite audit --cure`` prints
them.
"""

from __future__ import annotations

import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tailbite.audit.verdict import Word

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from tailbite.audit.verdict import Verdict

__all__ = ["LANGUAGES", "cure_of", "cure_url", "language_of", "read_cure"]

LANGUAGES: Final = ("c", "erlang", "go", "java", "node", "perl", "php", "python", "ruby", "rust")
"""The languages that have a page."""

_PAGES: Final = "https://github.com/tailbite/tailbite/blob/main/docs/howto/cure-your-client"

_INTERPRETERS: Final = {
    "python": "python",
    "pypy": "python",
    "uv": "python",
    "node": "node",
    "deno": "node",
    "bun": "node",
    "npx": "node",
    "ruby": "ruby",
    "bundle": "ruby",
    "perl": "perl",
    "php": "php",
    "java": "java",
    "erl": "erlang",
    "escript": "erlang",
    "elixir": "erlang",
    "iex": "erlang",
    "go": "go",
    "cargo": "rust",
}
_MARKS: Final = ((b"\xff Go buildinf:", "go"), (b"/rustc/", "rust"))
"""Bytes that the linkers of Go and Rust leave in every program."""

_MOST = 64 << 20


def language_of(command: tuple[str, ...]) -> str:
    """Return the language: of the interpreter, of the script's first line, or of the program file; else ``c``."""
    for word in command:
        program = Path(word).name
        known = _by_interpreter(program)
        if known:
            return known
        if program in ("env", "sh", "bash", "timeout", "nice", "setpriv") or re.search(r"^-|=|^[\d.]+$", word):
            continue
        return _by_file(word)
    return "c"


def _by_interpreter(program: str) -> str | None:
    return _INTERPRETERS.get(re.sub(r"[\d.]+$", "", program.removesuffix(".exe")))


def _by_file(word: str) -> str:
    path = shutil.which(word)
    if path is None:
        return "c"
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            head = file.read(_MOST)
    except OSError:
        return "c"
    if head.startswith(b"#!"):
        words = head.partition(b"\n")[0][2:].decode("utf-8", "replace").split()
        return next((known for word in words if (known := _by_interpreter(Path(word).name))), "c")
    return next((language for mark, language in _MARKS if mark in head), "c")


def cure_of(verdict: Verdict) -> str | None:
    """Return the language whose page has the cure; None for a client that needs no cure."""
    if verdict.verdict not in (Word.ABORTS, Word.BLOCKS, Word.HOLDS):
        return None
    return language_of(verdict.command)


def cure_url(language: str) -> str:
    """Return the address of a language's page."""
    return f"{_PAGES}/{language}.md"


def read_cure(language: str) -> str:
    """Return the page of a language as Markdown.

    Raises:
        ValueError: there is no page for it.
    """
    if language not in LANGUAGES:
        raise ValueError(f"there is no cure for {language!r}; there are: {', '.join(LANGUAGES)}")
    return _folder().joinpath(f"{language}.md").read_text(encoding="utf-8")


def _folder() -> Traversable:
    """Return the folder of the pages: beside this module in a wheel, in docs in a checkout."""
    packed = files("tailbite.audit").joinpath("cures")
    return packed if packed.is_dir() else Path(__file__).parents[3] / "docs" / "howto" / "cure-your-client"
