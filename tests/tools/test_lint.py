"""The checks of the repository's rules find what they are for, and leave good examples alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from checks import commits, names, prose, size, tests  # noqa: E402 - they lie below tools/


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return an empty folder with the layout of this repository."""
    for folder in ("src/tailbite/core", "tests/core", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).write_text(text, encoding="utf-8")


def messages(found: object) -> list[str]:
    return [str(offence) for offence in found]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "sentence",
    [
        "The port is bound anew.",
        "The caller was not told of it.",
        "An inspection is dear.",
        "'99999' is no port.",
        "a delay that is none",
        "names no port",
        "The trap springs.",
        "Give the connection to the user when he is done.",
        "the source port drawn by the kernel",
        "blind in this namespace",
        "carry out the change, or take it back",
        "whoever holds the port",
    ],
)
@pytest.mark.parametrize("place", ["comment", "docstring", "page"])
def test_a_turn_is_found_wherever_people_read_it(repository: Path, sentence: str, place: str) -> None:
    write(repository, "docs/page.md", sentence if place == "page" else "Fine.")
    code = {"comment": f"# {sentence}\n", "docstring": f'"""{sentence}"""\n'}.get(place, "")
    write(repository, "src/tailbite/core/ports.py", code)
    assert len(messages(prose.turns(repository))) >= 1


@pytest.mark.parametrize(
    "sentence",
    [
        "There is no port to bind.",
        "The socket is no longer bound, and it is None.",
        "The figure is drawn from the data.",
        "`tailbite.blind` and ``anew`` are names.",
        "They look at the port again.",
    ],
)
def test_plain_sentences_and_code_are_left_alone(repository: Path, sentence: str) -> None:
    write(repository, "docs/page.md", f"{sentence}\n```\nanew\n```\n")
    assert messages(prose.turns(repository)) == []


@pytest.mark.parametrize("word", ["What", "Which", "How", "Who", "Whether", "Where", "When"])
def test_a_docstring_that_opens_with_a_question_word_is_found(repository: Path, word: str) -> None:
    write(repository, "src/tailbite/core/ports.py", f'"""{word} it is."""\ndef f():\n    """Return it."""\n')
    assert len(messages(prose.docstring_openings(repository))) == 1


def test_the_text_below_an_attribute_is_a_docstring_too(repository: Path) -> None:
    write(repository, "src/tailbite/core/ports.py", 'LIMIT = 5\n"""What it is."""\nOTHER = "What else"\n')
    assert len(messages(prose.docstring_openings(repository))) == 1


def test_sizes_are_measured(repository: Path) -> None:
    write(repository, "src/tailbite/core/ports.py", "def f():\n" + "    x = 1\n" * 50)
    write(repository, "src/tailbite/core/plan.py", "x = 1\n" * 401)
    assert len(messages(size.long_functions(repository))) == 1
    assert len(messages(size.long_files(repository))) == 1
    assert messages(size.complexity(repository)) == []


def test_the_average_complexity_is_bounded(repository: Path) -> None:
    write(repository, "src/tailbite/core/odds.py", "def g(x):\n" + "    if x:\n        x = 1\n" * 9)
    assert len(messages(size.complexity(repository))) == 1


def test_a_public_name_with_two_homes_is_found_and_shells_may_share_one(repository: Path) -> None:
    for module in ("ports", "plan", "sync", "aio"):
        write(
            repository,
            f"src/tailbite/core/{module}.py",
            "def connect(): ...\n" if module in ("sync", "aio") else "X = 1\n",
        )
    found = messages(names.homonyms(repository))
    assert sum(" X is defined in" in message for message in found) == 2
    assert not any(" connect is defined in" in message for message in found)


def test_modules_and_tests_find_each_other(repository: Path) -> None:
    write(repository, "src/tailbite/core/ports.py", "def f(): ...\n")
    write(repository, "src/tailbite/core/plan.py", "def f(): ...\n")
    write(repository, "tests/core/test_ports.py", "")
    write(repository, "tests/core/test_elsewhere.py", "")
    untested = messages(tests.modules_without_tests(repository))
    assert any("core/plan.py" in message for message in untested)
    assert not any("core/ports.py" in message for message in untested)
    homeless = messages(tests.tests_without_module(repository))
    assert any("test_elsewhere.py" in message for message in homeless)
    assert not any("test_ports.py" in message for message in homeless)


def test_a_program_that_nobody_asked_for_is_found(repository: Path) -> None:
    write(
        repository,
        "tests/core/test_ports.py",
        'run(["ip", "link"])\nrun("ss -tan".split())\nrun([peer("ip"), "link"])\nrun(["sh", "-c", "true"])\n',
    )
    assert len(messages(tests.unasked_programs(repository))) == 2


@pytest.mark.parametrize(
    ("subject", "good"),
    [
        ("Handle common connects in a fast path", True),
        ("unbind: refuse sockets other than TCP", True),
        ("Process each event once", True),
        ("Only TCP's ports are given back", False),
        ("run: one loop sees to usual connects", False),
        ("Added a test", False),
        ("Adding a test", False),
        ("Adds a test", False),
        ("add a test", False),
        ("Add a test; remove another", False),
        ("Add " + "x" * 70, False),
    ],
)
def test_a_commit_subject_is_imperative_short_and_about_one_change(subject: str, good: bool) -> None:
    assert (commits.fault(subject) is None) is good
