"""Code blocks and commands of the repository's pages, and the marks that say which test runs them.

A mark stands on the line above a block:

``<!-- not run: REASON -->``
    nothing can run the block here;
``<!-- tested: tests/PATH.py -->``
    another test reads the block from the page and checks it;
``<!-- file: NAME -->``
    the block is the content of a file which later commands of the page use.

A comment ``# exit N`` behind a command names its exit status.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ROOT", "Block", "blocks_of", "indented_code", "inline_commands", "pages"]

ROOT: Final = Path(__file__).resolve().parents[2]
_FENCED: Final = re.compile(
    r"(?:^<!-- ([^\n]*?) -->\n)?^```([^\n]*)\n(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_TYPED: Final = re.compile(r"(?:^|sudo |-- |run: |[$;&#-] |=|bin/)(tailbite [a-z][a-z-]*(?: .*)?)$")
_LIST_ITEM: Final = re.compile(r"\s*(?:[-*+:]|\d+\.) ")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: path of the page, relative to the repository.
        line: line number of the fence or of the mark above it.
        language: the word behind the fence, "" for none.
        mark: the comment above the fence, "" for none.
        text: the lines between the fences.
    """

    page: str
    line: int
    language: str
    mark: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines that a reader would type."""
        return [line for line in self.text.splitlines() if line.strip() and not line.startswith("#")]

    @property
    def is_run(self) -> bool:
        """True if the test of the page runs the block as it stands."""
        return self.language in ("sh", "python") and not self.mark


def pages() -> list[str]:
    """Return every Markdown page of the repository, relative to it."""
    found = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md"), *ROOT.glob("*.md")]
    return sorted(file.relative_to(ROOT).as_posix() for file in found)


def blocks_of(page: str) -> list[Block]:
    """Return the fenced blocks of a page, directives of Sphinx aside."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[2], match[1] or "", match[3])
        for match in _FENCED.finditer(text)
        if not match[2].startswith("{")
    ]


def indented_code(page: str) -> list[int]:
    """Return the numbers of the lines with which code begins that is indented instead of fenced."""
    found: list[int] = []
    previous, in_list, in_fence = "", False, False
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            in_fence = not in_fence
        elif not in_fence:
            if line and not line.startswith(" "):
                in_list = bool(_LIST_ITEM.match(line))
            if line.startswith("    ") and not previous.strip() and not in_list:
                found.append(number)
        previous = line
    return found


def inline_commands(page: str) -> Iterator[tuple[int, str]]:
    """Yield each command line of tailbite that a page shows, in text or in a block, with the number of its line."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for match in re.finditer(r"`(tailbite [^`]+)`", text):
        yield text.count("\n", 0, match.start()) + 1, " ".join(match[1].replace(r"\|", "|").split())
    for block in blocks_of(page):
        for number, line in enumerate(block.text.replace("\\\n", "  ").splitlines(), 1):
            command = _TYPED.search(line.partition("  #")[0].rstrip())
            if command and not block.language.startswith(("python", "toml")):
                yield block.line + number, command[1]
