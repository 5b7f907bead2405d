"""The GitHub Action and the GitLab template keep to their schemas, and the action's script audits a client."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from conftest import ROOT, find

CI_FILES = ROOT / "deploy/ci"
PAGE = (ROOT / "docs/howto/ci.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^<!-- tested: deploy/tests/test_ci\.py -->\n```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
ACTION, WORKFLOW, TEMPLATE, TESTS = SHOWN


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


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ("vendor.github-workflows", ACTION),
        ("vendor.github-workflows", WORKFLOW),
        ("vendor.gitlab-ci", TEMPLATE),
        ("vendor.gitlab-ci", TESTS),
    ],
    ids=["action", "workflow", "template", "tests"],
)
def test_what_the_page_shows_keeps_to_its_schema(schema: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "shown.yml"
    file.write_text(text, encoding="utf-8")
    checked = subprocess.run(
        [find("check-jsonschema"), "--builtin-schema", schema, file], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_page_uses_the_action_with_inputs_that_it_has() -> None:
    action = yaml.safe_load((CI_FILES / "action.yml").read_text(encoding="utf-8"))
    (used,) = [
        step for step in yaml.safe_load(ACTION)["jobs"]["audit"]["steps"] if "deploy/ci@" in step.get("uses", "")
    ]
    required = {name for name, each in action["inputs"].items() if each.get("required")}
    assert required <= set(used["with"]) <= set(action["inputs"])
    (named,) = re.findall(r"The other inputs are (.*?)\.\n", PAGE, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", named)) - {"immune", "aborts"} == set(action["inputs"]) - required


def test_the_page_extends_the_template_with_variables_that_it_has() -> None:
    template = yaml.safe_load((CI_FILES / "tailbite.gitlab-ci.yml").read_text(encoding="utf-8"))
    shown = yaml.safe_load(TEMPLATE)
    assert shown["include"][0]["remote"].endswith("/main/deploy/ci/tailbite.gitlab-ci.yml")
    job = shown["self-connects"]
    variables = template[job["extends"]]["variables"]
    assert set(job["variables"]) <= set(variables)
    assert set(re.findall(r"TAILBITE_[A-Z]+", PAGE)) == set(variables)


def test_the_lines_of_the_action_on_the_page_are_audited(tmp_path: Path, tailbite: str) -> None:
    """With a client of that name, which is guarded; the second one is not."""
    for name, module in (("myclient", "tailbite"), ("myworker", "socket")):
        client = (
            f"import sys, {module} as t\n"
            "host, _, port = ':'.join(sys.argv[1:]).removeprefix('--queue:').rpartition(':')\n"
            "t.create_connection((host, int(port)))\n"
        )
        (tmp_path / f"{name}.py").write_text(client)
    commands = yaml.safe_load(ACTION)["jobs"]["audit"]["steps"][-1]["with"]["command"]
    done = run_script(commands, tmp_path, tailbite, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1, done.stderr
    failed = {
        case.get("name"): case.find("failure") is not None
        for case in ET.parse(tmp_path / "reports/audit.xml").getroot()
    }
    assert failed == {"pool": False, "worker": True}, done.stdout


def test_the_audit_of_the_workflow_on_the_page_ends_as_it_says(tmp_path: Path, tailbite: str) -> None:
    (tmp_path / "myclient.py").write_text(
        "import sys, tailbite\ntailbite.create_connection((sys.argv[1], int(sys.argv[2])))\n"
    )
    (step,) = [each for each in yaml.safe_load(WORKFLOW)["jobs"]["audit"]["steps"] if "immune" in each.get("run", "")]
    (line,) = [each for each in step["run"].splitlines() if each.startswith("tailbite ")]
    words = [tailbite, "audit", "--quick", *shlex.split(line)[2:]]
    path = f"{Path(tailbite).parent}:{os.environ['PATH']}"
    variables = {**os.environ, "PYTHONPATH": str(tmp_path), "PATH": path}
    done = subprocess.run(
        words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "audit.xml").is_file()
    assert (tmp_path / "evidence").is_dir()
