"""The texts of ``tailbite fix --as`` are accepted by the engine, or by its schema where the engine is not here."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from conftest import CI, ROOT, find

if TYPE_CHECKING:
    from pathlib import Path


def form(tailbite: str, kind: str) -> str:
    command = [tailbite, "fix", "--as", kind, "--reserve", "32246,33060-33062"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def accepted(*command: str) -> bool:
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    return done.returncode == 0


def test_pod(tailbite: str, tmp_path: Path) -> None:
    """The fragment is valid in a Deployment and in a Pod; a misspelt field is not."""
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "t"},
        "spec": {"containers": [{"name": "c", "image": "i"}], **yaml.safe_load(form(tailbite, "pod"))["spec"]},
    }
    file = tmp_path / "pod.yaml"
    file.write_text(yaml.safe_dump(pod))
    assert accepted(find("kubernetes-validate"), "--strict", str(file))
    pod["spec"]["securityContext"]["sysctl"] = []
    file.write_text(yaml.safe_dump(pod))
    assert not accepted(find("kubernetes-validate"), "--strict", str(file))


def test_cloud_init(tailbite: str, tmp_path: Path) -> None:
    """The schema that cloud-init checks user data with has no complaint; a misspelt key is one."""
    schema = next((ROOT / ".peers/cloud-init").rglob("schema-cloud-config-v1.json"), None)
    if schema is None:
        (pytest.fail if CI else pytest.skip)("the schema of cloud-init is not in .peers/cloud-init")
    file = tmp_path / "user-data.yaml"
    check = [find("check-jsonschema"), "--schemafile", str(schema), str(file)]
    text = form(tailbite, "cloud-init")
    file.write_text(text)
    assert accepted(*check)
    file.write_text(text.replace("permissions", "permission"))
    assert not accepted(*check)


def test_ansible(tailbite: str, tmp_path: Path) -> None:
    """The task passes ansible-playbook's syntax check, with the module that it names."""
    collections = tmp_path / "collections"
    galaxy = [find("ansible-galaxy"), "collection"]
    subprocess.run([*galaxy, "build", str(ROOT / "deploy/ansible"), "--output-path", str(tmp_path)], check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    subprocess.run([*galaxy, "install", str(archive), "-p", str(collections), "--offline"], check=True)
    play = [{"name": "Test", "hosts": "localhost", "tasks": yaml.safe_load(form(tailbite, "ansible"))}]
    file = tmp_path / "play.yaml"
    file.write_text(json.dumps(play))
    command = [
        "env",
        f"ANSIBLE_COLLECTIONS_PATH={collections}",
        find("ansible-playbook"),
        "--syntax-check",
        str(file),
    ]
    assert accepted(*command)


@pytest.mark.parametrize("kind", ["tuned", "machineconfig"])
def test_the_others_have_the_structure_that_their_engine_documents(kind: str, tailbite: str) -> None:
    text = form(tailbite, kind)
    if kind == "tuned":
        assert "[main]\nsummary=" in text
        assert "\n[sysctl]\nnet.ipv4.ip_local_reserved_ports=32246,33060-33062\n" in text
    else:
        document = yaml.safe_load(text)
        assert document["kind"] == "MachineConfig"
        assert document["spec"]["config"]["ignition"]["version"] == "3.2.0"
