"""Pages about findings: ``docs/findings/TB101.md`` and its like, which the wheel carries as package data."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["UnknownCode", "known_codes", "page_title", "read_page"]

_NAME = re.compile(r"(TB\d{3})\.md")


class UnknownCode(ValueError):  # noqa: N818 - named like UnknownNamespace
    """There is no page about that code; the message lists the codes."""


def known_codes() -> tuple[str, ...]:
    """Return every code that has a page, ascending."""
    return tuple(sorted(match[1] for entry in _folder().iterdir() if (match := _NAME.fullmatch(entry.name))))


def read_page(code: str) -> str:
    """Return a page as Markdown.

    Raises:
        UnknownCode: no page has that code.
    """
    wanted = code.strip().upper()
    known = known_codes()
    if wanted not in known:
        raise UnknownCode(f"there is no finding {code!r}; there are: {', '.join(known)}")
    return (_folder() / f"{wanted}.md").read_text(encoding="utf-8")


def page_title(code: str) -> str:
    """Return the title of a page, without its code.

    Raises:
        UnknownCode: there is no such page.
    """
    return read_page(code).partition("\n")[0].partition(": ")[2]


def _folder() -> Traversable:
    """Return where the pages lie: in a wheel or a zip file beside this module, in a checkout in docs/findings."""
    packed = resources.files(__package__) / "findings"
    return packed if packed.is_dir() else Path(__file__).parents[4] / "docs" / "findings"
