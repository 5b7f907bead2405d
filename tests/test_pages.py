"""Code blocks and commands of every page: each is run by a test, or marked with the reason why not.

``support.pages`` explains the marks.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from conftest import find_peer
from support.pages import ROOT, Block, blocks_of, indented_code, inline_commands, pages

sys.path.insert(0, str(ROOT / "tools"))
from tree import command_tree

from tailbite.cli.group import tailbite as root_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GENERATED = {
    "docs/reference/": "tests/tools/test_site_check.py",
    "docs/findings/index.md": "tests/tools/test_site_check.py",
    "docs/matrix.md": "tests/tools/test_peers_and_matrix.py",
    "docs/performance.md": "tests/test_performance_page.py",
    "docs/kernels.md": "tests/tools/test_kernels.py",
    "docs/seen.md": "tests/host/see/test_seen.py",
    "docs/api.md": "tests/test_public_api.py",
}
"""Pages that a tool makes, and the test that holds each to its tool."""

RUN_ELSEWHERE = {
    "docs/howto/cure-your-client/": "tests/audit/test_language.py",
    "docs/howto/reconnect.md": "tests/howto/test_reconnect.py",
    "docs/howto/flaky-tests.md": "tests/testkit/test_docs.py",
    "README.md": "tests/test_readme.py",
}
"""Pages whose runnable blocks another test runs, with the servers that they need."""

PRINTED = ("docs/findings/TB", "docs/howto/cure-your-client/")
"""Pages that the command prints as they are, so their code is indented. Tests make the scenes of the findings."""

SURROUNDINGS = {"docs/howto/production-host.md": 50051}
"""Pages about a self-connect on a port: their commands run beside one."""

STATUSES = {
    "tailbite scan": {0, 1, 3},
    "tailbite why 50051": {1},
    "tailbite scan --netns self": {0, 1},
    "tailbite doctor --netns self": {0, 1},
}
"""Exit statuses of commands whose result depends on the scene, or on the machine: other tests have self-connects."""

COMMANDS = {command.path: command for command in command_tree(root_command, "tailbite").walk()}
HAND_WRITTEN = [page for page in pages() if not page.startswith(tuple(GENERATED))]
OWN = [page for page in HAND_WRITTEN if not page.startswith(tuple(RUN_ELSEWHERE))]


def test_pages_are_found() -> None:
    assert {"README.md", "docs/index.md", "docs/howto/ci.md", "docs/findings/TB101.md"} <= set(HAND_WRITTEN)


def test_the_test_of_each_page_exists_and_names_it() -> None:
    for start, test in (GENERATED | RUN_ELSEWHERE).items():
        assert any(page.startswith(start) for page in pages()), f"{start} is listed here and does not exist"
        text = (ROOT / test).read_text(encoding="utf-8")
        assert start.rstrip("/").rpartition("/")[2].removesuffix(".md") in text, f"{test} does not name {start}"


def test_every_block_is_run_or_says_why_not() -> None:
    found = [block for page in HAND_WRITTEN for block in blocks_of(page)]
    assert len(found) > 60
    faults = [f"{block.page}:{block.line}: {fault}" for block in found if (fault := fault_of_mark(block)) is not None]
    assert not faults, "\n".join(faults)


def fault_of_mark(block: Block) -> str | None:
    """Return what is wrong with the mark of a block, or with a block that has none."""
    kind, _, rest = block.mark.partition(": ")
    match kind:
        case "":
            is_run = block.is_run or block.page.startswith("docs/howto/cure-your-client/")
            return None if is_run else "nothing runs it: make it sh or python, or add <!-- not run: REASON -->"
        case "not run":
            return None if len(rest) > 10 else "the reason is too short"
        case "tested":
            names_page = block.page.rpartition("/")[2] in (ROOT / rest).read_text(encoding="utf-8")
            return None if names_page else f"{rest} does not name the page"
        case "file":
            is_used = any(rest in each.text for each in blocks_of(block.page) if each.is_run)
            return None if is_used else f"no command of the page uses {rest}"
    return "a mark says 'not run: ', 'tested: ' or 'file: '"


@pytest.mark.parametrize(
    ("language", "mark", "is_right"),
    [
        ("sh", "", True),
        ("python", "", True),
        ("", "", False),
        ("text", "", False),
        ("yaml", "", False),
        ("rust", "", False),
        ("console", "not run: it needs a cluster", True),
        ("console", "not run: no", False),
        ("sh", "run elsewhere", False),
        ("", "tested: tests/test_readme.py", True),
        ("", "tested: tests/conftest.py", False),
        ("toml", "file: nobody-uses-it", False),
    ],
)
def test_a_block_that_nothing_runs_is_noticed(language: str, mark: str, is_right: bool) -> None:
    assert (fault_of_mark(Block("README.md", 1, language, mark, "true\n")) is None) is is_right


def test_the_scene_of_each_finding_is_tested() -> None:
    folders = [ROOT / "tests/host", ROOT / "tests/cli"]
    tests = "".join(file.read_text(encoding="utf-8") for folder in folders for file in folder.rglob("test_*.py"))
    codes = [match[1] for page in HAND_WRITTEN if (match := re.fullmatch(r"docs/findings/(TB\d+)\.md", page))]
    assert len(codes) > 25
    assert not [code for code in codes if code not in tests]


def test_code_is_fenced() -> None:
    faults = {page: lines for page in HAND_WRITTEN if not page.startswith(PRINTED) if (lines := indented_code(page))}
    assert not faults, "fence the code in these lines"
    assert indented_code("docs/findings/TB101.md"), "the search finds what is indented"


def test_every_command_on_a_page_exists_with_its_options() -> None:
    found = [(page, line, text) for page in pages() for line, text in inline_commands(page)]
    assert len(found) > 300
    faults = [f"{page}:{line}: `{text}`: {fault}" for page, line, text in found if (fault := fault_of_command(text))]
    assert not faults, "\n".join(faults)


def test_every_command_with_an_option_in_messages_and_deploy_exists() -> None:
    """Alert rules, dashboards, units, error messages and remedies name commands too."""
    first_words = "|".join(path[1] for path in COMMANDS if len(path) == 2)
    command = re.compile(rf"\btailbite (?:{first_words})\b(?: [^\s\"'`();,\\]+)*")
    files = [file for folder in ("deploy", "src") for file in sorted((ROOT / folder).rglob("*")) if is_text(file)]
    found = [(file, match[0]) for file in files for match in command.finditer(file.read_text(encoding="utf-8"))]
    with_options = [(file, text) for file, text in found if " -" in text]
    assert len(with_options) > 100
    faults = [f"{file}: {text}: {fault}" for file, text in with_options if (fault := fault_of_command(text))]
    assert not faults, "\n".join(faults)


def is_text(file: Path) -> bool:
    kinds = (".py", ".yml", ".yaml", ".json", ".toml", ".md", ".service", ".timer", ".sh", ".tpl", ".txt", "")
    return file.is_file() and file.suffix in kinds and "__pycache__" not in file.parts


def fault_of_command(text: str) -> str | None:
    """Return what is wrong with a command line of tailbite, up to the program that it starts."""
    words = re.split(r"\s+(?:[|;>].*)?", text.partition(" -- ")[0].strip())
    path: tuple[str, ...] = ("tailbite",)
    rest = words[1:]
    while rest and (*path, rest[0]) in COMMANDS:
        path, rest = (*path, rest[0]), rest[1:]
    command = COMMANDS[path]
    if command.commands and rest and re.fullmatch(r"[a-z][a-z-]+", rest[0]):
        return f"{' '.join(path)} has no command {rest[0]}"
    known = {name for option in command.options for name in option.names} | {"--help", "--version", "-h", "-"}
    for word in rest:
        name = word.partition("=")[0].strip("[],.")
        if name.startswith("-") and name != "--" and name not in known and name[:2] not in known - {"--"}:
            return f"{' '.join(path)} has no option {name}"
    return None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("tailbite scan --netns self", None),
        ("tailbite run -- telnet --nothing", None),
        ("tailbite lab odds --port P", None),
        ("tailbite scann", "tailbite has no command scann"),
        ("tailbite scan --nets self", "tailbite scan has no option --nets"),
        ("tailbite lab od --port 1", "tailbite lab has no command od"),
        ("tailbite host-guard --apply", "tailbite host-guard has no option --apply"),
    ],
)
def test_a_wrong_command_is_noticed(text: str, fault: str | None) -> None:
    assert fault_of_command(text) == fault


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("page", [page for page in OWN if any(block.is_run for block in blocks_of(page))])
def test_the_commands_of_a_page_end_as_it_says(page: str, tmp_path: Path) -> None:
    with scene_of(page):
        for block in blocks_of(page):
            if block.mark.startswith("file: "):
                (tmp_path / block.mark.removeprefix("file: ")).write_text(block.text, encoding="utf-8")
            elif block.is_run and block.language == "python":
                run_python(block, tmp_path)
            elif block.is_run:
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
    done = subprocess.run([sys.executable, "-c", block.text], capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 0, f"{block.page}:{block.line}\n{done.stderr}"


def run_command(line: str, block: Block, folder: Path) -> None:
    command, _, comment = line.partition("  #")
    command = command.strip()
    stated = re.search(r"exit (\d+)", comment)
    allowed = {int(stated[1])} if stated else STATUSES.get(command, {0})
    program = shlex.split(command)[0]
    if program == "ss":
        find_peer("ss")
    environment = {**os.environ, "PATH": f"{sys.executable.rpartition('/')[0]}:{os.environ['PATH']}"}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=300, cwd=folder, env=environment
    )
    assert done.returncode in allowed, f"{block.page}:{block.line}: {command}\n{done.stdout}\n{done.stderr}"


DATA = ("yaml", "json", "toml")


def test_blocks_of_data_are_valid() -> None:
    found = [block for page in HAND_WRITTEN for block in blocks_of(page) if block.language in DATA]
    assert {block.language for block in found} == set(DATA)
    for block in found:
        assert load(block), f"{block.page}:{block.line}"


def load(block: Block) -> Any:
    if block.language == "json":
        import json

        return json.loads(block.text)
    if block.language == "toml":
        import tomllib

        return tomllib.loads(block.text)
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all(block.text))
