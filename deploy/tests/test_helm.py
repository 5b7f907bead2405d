"""The chart: linted strictly, and what it renders is valid for the current Kubernetes, with no unknown field."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from conftest import ROOT, find

if TYPE_CHECKING:
    from pathlib import Path

CHART = ROOT / "deploy/helm/tailbite"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([find("helm"), *arguments], capture_output=True, text=True, timeout=60, check=False)


def render(*arguments: str) -> dict[str, dict[str, Any]]:
    """Return the rendered documents by kind."""
    done = helm("template", "t", str(CHART), *arguments)
    assert done.returncode == 0, done.stderr
    return {document["kind"]: document for document in yaml.safe_load_all(done.stdout) if document}


def validate(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "rendered.yaml"
    file.write_text(text)
    command = [find("kubernetes-validate"), "--strict", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_lint_finds_nothing(values: Path) -> None:
    done = helm("lint", "--strict", str(CHART), "--values", str(values))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_what_is_rendered_is_valid(values: Path, tmp_path: Path) -> None:
    done = helm("template", "t", str(CHART), "--values", str(values))
    checked = validate(done.stdout, tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "passed for resource daemonset" in checked.stdout + checked.stderr


def test_the_validator_refuses_an_unknown_field(tmp_path: Path) -> None:
    """The control of the test above."""
    text = helm("template", "t", str(CHART)).stdout.replace(
        "hostNetwork: true", "hostNetwork: true\n      badField: 1"
    )
    assert validate(text, tmp_path).returncode != 0


@pytest.mark.parametrize(
    "bad", ["exporter.port=99999", "exporter.every=soon", "exporter.source=magic", "imagee.tag=1"]
)
def test_a_wrong_value_is_refused(bad: str) -> None:
    assert helm("template", "t", str(CHART), "--set", bad).returncode != 0


def test_every_node_is_watched_on_its_own_network() -> None:
    pod = render()["DaemonSet"]["spec"]["template"]["spec"]
    assert pod["hostNetwork"] is True
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["automountServiceAccountToken"] is False
    container = pod["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]


def test_without_capabilities_it_runs_as_nobody() -> None:
    pod = render("--values", str(CHART / "ci/unprivileged-values.yaml"))["DaemonSet"]["spec"]["template"]["spec"]
    security = pod["containers"][0]["securityContext"]
    assert (security["runAsUser"], security["runAsNonRoot"]) == (65534, True)
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"


def test_the_optional_parts_are_rendered_when_asked_for() -> None:
    assert {"PodMonitor", "NetworkPolicy"}.isdisjoint(render())
    full = render("--values", str(CHART / "ci/operator-values.yaml"))
    assert full["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"
    assert full["NetworkPolicy"]["spec"]["ingress"][0]["ports"] == [{"port": 9745, "protocol": "TCP"}]


def test_the_arguments_are_those_of_the_command(tailbite: str) -> None:
    """Each argument of the container is an option that the exporter knows."""
    command = [tailbite, "exporter", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    arguments = render()["DaemonSet"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[0] == "exporter"
    unknown = [argument for argument in arguments[1:] if argument.split("=")[0] not in text]
    assert not unknown
