"""Workflow commands and job summary: escaped as GitHub reads them, one per client."""

from __future__ import annotations

import pytest

from tailbite.audit import Verdict, Word
from tailbite.audit.report.github import job_summary, workflow_commands
from tailbite.audit.verdict import Belief


def verdict(name: str, word: Word, reason: str = "a reason") -> Verdict:
    return Verdict(name, "", word, reason, command=("python3", "x.py"))


@pytest.mark.parametrize(
    ("word", "required", "kind"),
    [
        (Word.IMMUNE, Word.IMMUNE, "notice"),
        (Word.ABORTS, Word.IMMUNE, "error"),
        (Word.ABORTS, Word.ABORTS, "notice"),
        (Word.HOLDS, Word.ABORTS, "error"),
        (Word.INCONCLUSIVE, Word.IMMUNE, "error"),
        (Word.UNSUPPORTED, Word.IMMUNE, "warning"),
    ],
)
def test_a_client_that_does_not_pass_is_an_error(word: Word, required: Word, kind: str) -> None:
    (line,) = workflow_commands([verdict("x", word)], required).splitlines()
    assert line.startswith(f"::{kind} title=tailbite audit%3A x::{word.value}: a reason.")


def test_nothing_of_a_name_or_a_reason_is_read_as_a_command() -> None:
    told = workflow_commands([verdict("a:b,c%", Word.IMMUNE, "50%\n::error::x\r")], Word.IMMUNE)
    assert told == "::notice title=tailbite audit%3A a%3Ab%2Cc%25::immune: 50%25%0A::error::x%0D.\n"


def test_a_client_that_was_not_audited_is_a_warning() -> None:
    told = workflow_commands([], Word.IMMUNE, ["late"])
    assert told == "::warning title=tailbite audit%3A late::not audited: interrupted\n"
    assert "Interrupted; not audited: late." in job_summary([], Word.IMMUNE, ["late"])


def test_the_summary_has_a_row_per_client_and_links_the_cure() -> None:
    verdicts = [verdict("good", Word.IMMUNE), verdict("a|b", Word.HOLDS, "<b> it\nheld"), verdict("c", Word.BLOCKS)]
    told = job_summary(verdicts, Word.IMMUNE)
    assert "1 of 3 clients are immune." in told
    assert "| good | **immune** | - | a reason. |" in told
    assert "| a\\|b | **holds** | - | \\<b\\> it held. [The cure](" in told
    assert told.count("cure-your-client/python.md") == 2
    assert "immune or better" not in told
    assert "aborts or better" in job_summary([verdict("x", Word.ABORTS)], Word.ABORTS)
    believing = Verdict("x", "", Word.HOLDS, "r", believed=Belief.YES, image="img")
    assert "| x (img) | **holds** | yes |" in job_summary([believing], Word.IMMUNE)
    assert "%0AIn the image img." in workflow_commands([believing], Word.IMMUNE)
