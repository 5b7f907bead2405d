"""Reports of ``tailbite audit``: a file that cannot be written loses neither the result nor the other files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from tailbite.audit.verdict import Verdict, Word
from tailbite.cli.audit import command
from tailbite.cli.audit_reports import print_result, write_reports

if TYPE_CHECKING:
    from pathlib import Path

VERDICTS = [Verdict("good", "", Word.IMMUNE, "it came back"), Verdict("bad", "", Word.HOLDS, "it stayed connected")]


def test_a_file_that_cannot_be_written_is_told_and_the_other_one_is_written(tmp_path: Path) -> None:
    good, missing = tmp_path / "x.html", tmp_path / "none" / "x.xml"
    told = write_reports(VERDICTS, Word.IMMUNE, ["left out"], missing, good)
    assert told == f"cannot write {missing}: No such file or directory"
    assert "left out" in good.read_text()
    assert write_reports(VERDICTS, Word.IMMUNE, [], tmp_path / "x.xml", None) is None
    assert 'tests="2"' in (tmp_path / "x.xml").read_text()


def test_the_summary_of_a_job_is_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    print_result(VERDICTS, Word.IMMUNE, [], "github", recovery=False)
    assert summary.read_text().startswith("before\n## tailbite audit\n")
    out = capsys.readouterr().out
    assert "::notice title=tailbite audit%3A good::immune: it came back." in out
    assert "::error title=tailbite audit%3A bad::holds: it stayed connected." in out
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    with pytest.raises(Exception, match="cannot write the job summary"):
        print_result(VERDICTS, Word.IMMUNE, [], "github", recovery=False)


@pytest.mark.usefixtures("network")
def test_the_verdict_is_printed_although_its_file_cannot_be_written() -> None:
    result = CliRunner().invoke(command, ("--quick", "--json", "--html", "/proc/x.html", "--", "false", "{port}"))
    assert result.exit_code == 2
    assert "cannot write /proc/x.html" in result.stderr
    assert json.loads(result.stdout)["clients"][0]["verdict"] == "unexercised"
