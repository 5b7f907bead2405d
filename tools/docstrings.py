"""Docstrings as Markdown: paragraphs, literal blocks, tables, and the sections about arguments and errors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["details_of", "inline_markdown"]

_SECTIONS: Final = {
    "Args": "Arguments",
    "Attributes": "Attributes",
    "Returns": "Returns",
    "Yields": "Yields",
    "Raises": "Raises",
}
_NAMED: Final = re.compile(r"([\w*][\w*, ]*): (.*)", re.DOTALL)


def inline_markdown(text: str) -> str:
    """Return text as Markdown: roles and double backticks become code."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


def details_of(docstring: str) -> list[str]:
    """Return what follows the first paragraph of a docstring, as lines of Markdown."""
    lines: list[str] = []
    parts = _parts(docstring.expandtabs())
    next(parts, None)
    for head, body in parts:
        if head:
            lines += ["", f"**{_SECTIONS[head]}**", "", *_items(head, body)]
        else:
            lines += ["", *body]
    return lines[1:]


def _parts(docstring: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the paragraphs and sections of a docstring: the section's name, or "", and the lines."""
    is_literal = False
    for block in _blocks(docstring.splitlines()):
        head = block[0].rstrip(":")
        if block[0].endswith(":") and head in _SECTIONS:
            yield head, block[1:]
        elif block[0].startswith(" ") or block[0].startswith(("=== ", "====")):
            indent = min(len(line) - len(line.lstrip()) for line in block if line)
            yield "", ["```text", *(line[indent:] for line in block), "```"]
        else:
            is_literal = block[-1].endswith("::")
            text = inline_markdown(" ".join(line.strip() for line in block))
            if text != "::":
                yield "", [text.removesuffix(":") if is_literal else text]


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Yield runs of lines that belong together: an indented run keeps its empty lines, a section begins a new one."""
    block: list[str] = []
    for line in [*lines, ""]:
        is_indented = line.startswith(" ")
        begins_section = line.endswith(":") and line[:-1] in _SECTIONS
        goes_on = bool(block) and is_indented and (block[0].startswith(" ") or block[0][:-1] in _SECTIONS)
        if block and (begins_section or (not block[-1] and not goes_on)):
            yield _trimmed(block)
            block = []
        if line or block:
            block.append(line)
    if block and any(block):
        yield _trimmed(block)


def _trimmed(block: list[str]) -> list[str]:
    while block and not block[-1].strip():
        block.pop()
    return block


def _items(head: str, body: list[str]) -> list[str]:
    """Return the entries of a section as a list, one line each."""
    entries: list[str] = []
    for line in body:
        text = line.removeprefix("    ")
        if text.startswith(" ") and entries:
            entries[-1] += f" {text.strip()}"
        elif text.strip():
            entries.append(text.strip())
    if head in ("Returns", "Yields"):
        return [inline_markdown(" ".join(entries))]
    return [_item(entry) for entry in entries]


def _item(entry: str) -> str:
    match = _NAMED.fullmatch(entry)
    if match is None:
        return f"- {inline_markdown(entry)}"
    names = ", ".join(f"`{name.strip()}`" for name in match[1].split(","))
    return f"- {names}: {inline_markdown(match[2])}"
