"""The pages about findings: ``docs/findings/TB101.md`` and its like, which the wheel carries as package data."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["UnknownCode", "codes", "page"]

_NAME = re.compile(r"(TB\d{3})\.md")


class UnknownCode(ValueError):  # noqa: N818 - as NamespaceUnavailable
    """There is no page about that code; the message says which there are."""


def codes() -> tuple[str, ...]:
    """Return every code that has a page, ascending."""
    return tuple(sorted(match[1] for entry in _folder().iterdir() if (match := _NAME.fullmatch(entry.name))))


def page(code: str) -> str:
    """Return a page as Markdown.

    Raises:
        UnknownCode: there is none.
    """
    wanted = code.strip().upper()
    known = codes()
    if wanted not in known:
        raise UnknownCode(f"there is no finding {code!r}; there are: {', '.join(known)}")
    return (_folder() / f"{wanted}.md").read_text(encoding="utf-8")


def _folder() -> Path:
    """In a wheel the pages lie beside this module; in a checkout they are where people read them, in docs."""
    packed = Path(__file__).with_name("findings")
    return packed if packed.is_dir() else Path(__file__).parents[4] / "docs" / "findings"
