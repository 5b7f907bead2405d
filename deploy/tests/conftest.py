"""Tests of what is rolled out with the engines of others: ``make try-deploy``, as root, in namespaces of their own.

They need programs that ``make test`` does not: Ansible and its linter, helm, sshd. A missing one is a failure in CI
and a visible skip elsewhere.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

CI = os.environ.get("CI", "").lower() == "true"
ROOT = Path(__file__).resolve().parents[2]


def find(program: str) -> str:
    """Return the path of a program: first of this environment, then of the system."""
    system = os.environ.get("PATH", os.defpath)
    folders = [Path(sys.executable).parent, ROOT / ".peers/helm/layer/helm", system, "/usr/sbin", "/sbin"]
    path = os.pathsep.join(map(str, folders))
    found = shutil.which(program, path=path)
    if found is None:
        (pytest.fail if CI else pytest.skip)(f"{program} is not installed")
    return found


@pytest.fixture(scope="session")
def tailbite() -> str:
    """The command of this checkout."""
    command = ROOT / ".venv/bin/tailbite"
    if not command.exists():
        pytest.fail("run make setup first")
    return str(command)


@pytest.fixture(scope="session")
def root_only() -> None:
    """Skip unless the tests run as root in a network namespace that is not the machine's."""
    inside = os.geteuid() == 0 and os.environ.get("TAILBITE_OWN_NETWORK") == "1"
    if not inside:
        (pytest.fail if CI else pytest.skip)("needs root, and a network namespace of its own: run make try-deploy")
