"""The GitHub Action and the GitLab template keep to their schemas, and the action's script audits what it is told."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from conftest import ROOT, find

CI_FILES = ROOT / "deploy/ci"


@pytest.mark.parametrize(
    ("schema", "name"),
    [("vendor.github-actions", "action.yml"), ("vendor.gitlab-ci", "tailbite.gitlab-ci.yml")],
)
def test_a_file_keeps_to_its_schema(schema: str, name: str) -> None:
    checked = subprocess.run(
        [find("check-jsonschema"), "--builtin-schema", schema, CI_FILES / name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def run_script(commands: str, folder: Path, tailbite: str, **more: str) -> subprocess.CompletedProcess[str]:
    variables = {
        "PATH": f"{Path(tailbite).parent}:{os.environ['PATH']}",
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        "GITHUB_OUTPUT": str(folder / "output"),
        "TAILBITE_ARGUMENTS": "--quick",
        "TAILBITE_FOLDER": str(folder / "reports"),
        "TAILBITE_COMMANDS": commands,
        **more,
    }
    return subprocess.run(
        ["bash", CI_FILES / "audit.sh"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_script_audits_every_line_and_fails_with_annotations(tmp_path: Path, tailbite: str) -> None:
    plain = 'bash -c "exec 3<> /dev/tcp/{host}/{port}; sleep 60"'
    done = run_script(f"held={plain}\n\n  {plain}\n", tmp_path, tailbite)
    assert done.returncode == 1, done.stderr
    assert "::error title=tailbite audit%3A held::holds: " in done.stdout
    assert "::error title=tailbite audit%3A bash::holds: " in done.stdout
    assert "0 of 2 clients are immune." in (tmp_path / "summary.md").read_text()
    report = (tmp_path / "output").read_text().strip().partition("=")[2]
    assert [case.get("name") for case in ET.parse(report).getroot()] == ["held", "bash"]
    assert (tmp_path / "reports/evidence/held/connect-127.0.0.1/lo.pcap").exists()
    assert not [path for path in (tmp_path / "reports").rglob("*") if ":" in path.name]


def test_the_script_passes_for_a_client_that_is_guarded(tmp_path: Path, tailbite: str) -> None:
    guarded = f'{tailbite} run --require -- bash -c "exec 3<> /dev/tcp/{{host}}/{{port}}"'
    done = run_script(f"guarded={guarded}", tmp_path, tailbite)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "::notice title=tailbite audit%3A guarded::immune: " in done.stdout


def test_the_script_says_what_it_needs(tmp_path: Path, tailbite: str) -> None:
    done = run_script("", tmp_path, tailbite)
    assert done.returncode != 0
    assert "set TAILBITE_COMMANDS to the commands to audit" in done.stderr
