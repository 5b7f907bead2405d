"""tailbite starts itself from a folder, a single file and site-packages alike."""

from __future__ import annotations

import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

import tailbite
from tailbite import _itself

PACKAGE = Path(tailbite.__file__).parent
PROBE = "from tailbite import _itself as i; print((i.command(), i.python_module('tailbite.probe')))\n"


@pytest.fixture(params=["folder", "archive"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tailbite of one module that no Python finds by itself, with a main program."""
    folder = tmp_path / "app"
    (folder / "tailbite").mkdir(parents=True)
    (folder / "tailbite/__init__.py").touch()
    (folder / "tailbite/_itself.py").write_text((PACKAGE / "_itself.py").read_text())
    (folder / "tailbite/probe.py").write_text("import sys; print('probe', __name__, sys.path[0])\n")
    (folder / "__main__.py").write_text(PROBE)
    if request.param == "folder":
        return folder
    zipapp.create_archive(folder, tmp_path / "app.pyz")
    return tmp_path / "app.pyz"


def run(command: list[str], cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_from_elsewhere(elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / "runpy.py").write_text("raise SystemExit('a module of the current folder was imported')\n")
    command, module = eval(run([sys.executable, str(elsewhere)], tmp_path))
    assert command == [sys.executable, "-I", str(elsewhere)]
    assert run(command, tmp_path) == run([sys.executable, str(elsewhere)], tmp_path)
    assert run(module, tmp_path).startswith("probe __main__ ")


def test_from_here(tmp_path: Path) -> None:
    assert _itself.command() == [sys.executable, "-m", "tailbite"]
    assert run([*_itself.command(), "--version"], tmp_path) == f"tailbite {tailbite.__version__}"
