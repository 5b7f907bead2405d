"""docs/guards.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from support import libraries
from tailbite.guards.host.bpf_match import bytecode, listing, self_connect_filter

PAGE = (Path(__file__).parents[2] / "docs" / "guards.md").read_text(encoding="utf-8")


def test_the_program_is_the_one_that_is_made() -> None:
    assert listing(self_connect_filter(4)) in PAGE
    assert bytecode(self_connect_filter(4)).split(",", 2)[:2] == ["12", "177 0 0 0"]
    assert "'12,177 0 0 0,...'" in PAGE


def test_every_library_that_is_proven_is_named_and_no_other() -> None:
    proven = re.search(r"connect to itself\s\(`tests.*?`\): (.*?)\n\n", PAGE, re.DOTALL)
    in_c = re.search(r"connect in C: (.*?)\.\s+The same", PAGE, re.DOTALL)
    assert proven
    assert in_c

    def names(text: str) -> set[str]:
        return set(re.sub(r" \([^)]*\)", "", text.replace("\n", " ")).rstrip(".").split(", "))

    assert names(proven[1]) == {library.name.split(", ")[0].removesuffix(".sync") for library in libraries.PYTHON}
    assert names(in_c[1]) == {library.name for library in libraries.C}
