"""Code blocks and commands of the documentation: each is run by a test, or marked with the reason why not.

Marks stand on the line above a block: ``<!-- not run: REASON -->``, and ``<!-- file: NAME -->`` for a block that is
the content of a file which later commands of the page use. A comment ``# exit N`` in a command names its exit status.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import find_peer

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parent.parent / "docs"

GENERATED = ("reference/", "findings/index.md", "matrix.md", "performance.md", "kernels.md", "seen.md", "api.md")
"""Pages whose content comes from a tool, which a test of its own checks."""

RUN_ELSEWHERE = {
    "howto/cure-your-client/python.md": "tests/audit/test_language.py",
    "howto/reconnect.md": "tests/howto/test_reconnect.py",
    "howto/flaky-tests.md": "tests/testkit/test_docs.py",
}
"""Pages whose blocks another test runs, with the servers that they need."""

SURROUNDINGS = {"howto/production-host.md": 50051}
"""Pages about a self-connect on a port: their commands run beside one."""

STATUSES = {
    "tailbite scan": {0, 3},
    "tailbite why 50051": {1},
    "tailbite scan --netns self": {0, 1},
    "tailbite doctor --netns self": {0, 1},
}
"""Exit statuses of commands whose result depends on the machine, or on the scene of the page."""

COMMAND = re.compile(
    r"^(?:\$ |# )?(?:sudo )?"
    r"(?:tailbite|pip|pipx|uvx?|python3?|docker|podman|kubectl|helm|make|curl|pytest|sysctl|while|for)\b"
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: line number, language, mark and text."""

    page: str
    line: int
    language: str
    mark: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines that a reader would type."""
        return [line for line in self.text.splitlines() if line.strip() and not line.startswith("#")]


def pages() -> list[str]:
    """The hand-written pages that have fenced blocks, by their path in docs/."""
    names = sorted(file.relative_to(DOCS).as_posix() for file in DOCS.rglob("*.md"))
    return [name for name in names if not name.startswith(GENERATED) and blocks(name)]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, Sphinx's directives aside."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = []
    pattern = re.compile(r"(?:^<!-- ([^\n]*?) -->\n)?^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    for match in pattern.finditer(text):
        if not match[2].startswith("{"):
            found.append(Block(page, text.count("\n", 0, match.start()) + 1, match[2], match[1] or "", match[3]))
    return found


def is_run(block: Block) -> bool:
    return block.language in ("sh", "python") and not block.mark.startswith("not run: ")


@pytest.mark.parametrize("page", pages())
def test_every_block_is_run_or_says_why_not(page: str) -> None:
    if page in RUN_ELSEWHERE:
        test = (DOCS.parent / RUN_ELSEWHERE[page]).read_text(encoding="utf-8")
        assert Path(page).name in test or Path(page).parent.name in test
        return
    for block in blocks(page):
        where = f"{page}:{block.line}"
        if block.mark.startswith("not run: "):
            assert len(block.mark) > len("not run: ") + 10, f"{where}: the reason is too short"
        elif not is_run(block) and block.language in ("", "text", "console", "shell"):
            typed = [line for line in block.text.splitlines() if COMMAND.match(line)]
            assert not typed, f"{where}: {typed[0]!r} is not run: make the block sh, or add <!-- not run: REASON -->"


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("page", [page for page in pages() if any(map(is_run, blocks(page)))])
def test_the_commands_of_a_page_end_as_it_says(page: str, tmp_path: Path) -> None:
    if page in RUN_ELSEWHERE:
        return
    with scene_of(page):
        for block in blocks(page):
            if block.mark.startswith("file: "):
                (tmp_path / block.mark.removeprefix("file: ")).write_text(block.text, encoding="utf-8")
            elif is_run(block) and block.language == "python":
                run_python(block, tmp_path)
            elif is_run(block):
                for line in block.commands:
                    run_command(line, block, tmp_path)


@contextlib.contextmanager
def scene_of(page: str) -> Iterator[None]:
    port = SURROUNDINGS.get(page)
    with contextlib.ExitStack() as stack:
        if port is not None:
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", port))
            sock.connect(("127.0.0.1", port))
        yield


def run_python(block: Block, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", block.text], capture_output=True, text=True, timeout=60, cwd=folder)
    assert done.returncode == 0, f"{block.page}:{block.line}\n{done.stderr}"


def run_command(line: str, block: Block, folder: Path) -> None:
    command, _, comment = line.partition("  #")
    command = command.strip()
    stated = re.search(r"exit (\d+)", comment)
    allowed = {int(stated[1])} if stated else STATUSES.get(command, {0})
    program = shlex.split(command)[0]
    if program == "ss":
        find_peer("ss")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=100, cwd=folder, env=environment
    )
    assert done.returncode in allowed, f"{block.page}:{block.line}: {command}\n{done.stdout}\n{done.stderr}"


def test_workflows_are_valid_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    found = [block for page in pages() for block in blocks(page) if block.language == "yaml"]
    assert found
    for block in found:
        assert list(yaml.safe_load_all(block.text)), f"{block.page}:{block.line}"
