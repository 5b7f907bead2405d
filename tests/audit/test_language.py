"""The language of a client, and the cure in each language: the program of each page is immune."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tailbite.audit import Client, Limits, Verdict, Word, audit
from tailbite.audit.language import LANGUAGES, cure_of, cure_url, language_of, read_cure
from tailbite.audit.verdict import Figure

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = {
    "c": ("client.c", ("gcc", "-o", "client", "client.c")),
    "erlang": ("client.erl", ("escript",)),
    "go": ("client.go", ("go", "build", "-o", "client", "client.go")),
    "java": ("Client.java", ("javac", "Client.java")),
    "node": ("client.js", ("node",)),
    "perl": ("client.pl", ("perl",)),
    "php": ("client.php", ("php",)),
    "python": ("client.py", ()),
    "ruby": ("client.rb", ("ruby",)),
    "rust": ("client.rs", ("rustc", "-o", "client", "client.rs")),
}
RUN = {
    "c": ("{build}/client",),
    "erlang": ("escript", "client.erl"),
    "go": ("{build}/client",),
    "java": ("java", "-cp", "{build}", "Client"),
    "node": ("node", "client.js"),
    "perl": ("perl", "client.pl"),
    "php": ("php", "client.php"),
    "python": (sys.executable, "client.py"),
    "ruby": ("ruby", "client.rb"),
    "rust": ("{build}/client",),
}
BUILD = {name: command for name, (_, command) in FILES.items() if len(command) > 1}


def cured(language: str) -> Client:
    """The program of the page as a client of the audit."""
    match = re.search(r"^```\w+\n(.*?)^```$", read_cure(language), re.DOTALL | re.MULTILINE)
    assert match
    name, _ = FILES[language]
    build = BUILD.get(language)
    prepare = ("sh", "-c", f"GO111MODULE=off GOFLAGS= CGO_ENABLED=0 {' '.join(build)}") if build else ()
    command = (*RUN[language], "{host}", "{port}")
    return Client(language, command, files={name: match[1]}, prepare=prepare, in_scratch=True)


@pytest.mark.peers
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_program_of_the_page_is_immune_and_the_server_starts_at_once(
    language: str, peer: Callable[[str], str]
) -> None:
    for program in (*FILES[language][1][:1], *(word for word in RUN[language][:1] if "/" not in word)):
        peer(program)
    limits = Limits(dial=60, watch=0.5, hold=1.6, patience=30, recovery=True)
    verdict = audit(cured(language), limits)
    assert verdict.verdict is Word.IMMUNE, verdict.reason
    assert {seen.phase.host for seen in verdict.observations if seen.dials} == {"127.0.0.1", "::1", "localhost"}
    for timing in (verdict.server_down_plain, verdict.server_down_reuse, verdict.recovered_after):
        assert timing.outcome is Figure.MEASURED  # within the patience; a TIME-WAIT takes a minute


@pytest.mark.parametrize(
    ("command", "language"),
    [
        (("python3.11", "x.py"), "python"),
        (("env", "A=b", "/usr/bin/node", "x.js"), "node"),
        (("timeout", "-k", "5", "escript", "x"), "erlang"),
        (("sh", "-c", "true"), "c"),
        (("/no/such/program",), "c"),
        (("env",), "c"),
        (("sh", "{port}"), "c"),
    ],
)
def test_the_language_is_that_of_the_interpreter(command: tuple[str, ...], language: str) -> None:
    assert language_of(command) == language


@pytest.mark.parametrize(
    ("content", "language"),
    [
        (b"#!/usr/bin/env python3\n", "python"),
        (b"#!/usr/bin/perl -w\n", "perl"),
        (b"#!/bin/sh\n", "c"),
        (b"\x7fELF...\xff Go buildinf:", "go"),
        (b"\x7fELF.../rustc/0123", "rust"),
        (b"\x7fELF...", "c"),
    ],
)
def test_the_language_is_that_of_the_file(content: bytes, language: str, tmp_path: Path) -> None:
    program = tmp_path / "client"
    program.write_bytes(content)
    program.chmod(0o755)
    assert shutil.which(str(program))
    assert language_of((str(program), "{port}")) == language


def test_a_client_that_needs_a_cure_is_told_its_page_and_another_is_not() -> None:
    def verdict(word: Word) -> Verdict:
        return Verdict("x", "", word, "a reason", command=("ruby", "x.rb"))

    assert [word for word in Word if cure_of(verdict(word))] == [Word.ABORTS, Word.BLOCKS, Word.HOLDS]
    assert cure_of(verdict(Word.HOLDS)) == "ruby"
    assert cure_url("ruby").endswith("/docs/howto/cure-your-client/ruby.md")


def test_every_language_has_a_page_and_every_page_a_language() -> None:
    pages = Path(__file__).parents[2] / "docs/howto/cure-your-client"
    assert {page.stem for page in pages.glob("*.md")} == {*LANGUAGES, "index"}
    with pytest.raises(ValueError, match="there is no cure for 'cobol'; there are: c, erlang"):
        read_cure("cobol")
