"""``dist/tailbite.pyz`` runs every host command on each Python from 3.10 that is installed, and stays small."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from conftest import CI, ROOT, find

FILE = ROOT / "dist/tailbite.pyz"
PYTHONS = sorted(
    {
        path
        for path in ["/usr/bin/python3", *map(str, Path.home().glob(".pyenv/versions/*/bin/python3"))]
        if (found := re.search(r"/versions/3\.(\d+)", path)) is None or int(found[1]) >= 10
    }
)
COMMANDS = {
    ("--version",): {0},
    ("--help",): {0},
    ("scan", "--netns", "self"): {0},
    ("why", "--netns", "self", "32246"): {0},
    ("why", "--explain", "TB101"): {0},
    ("doctor", "--netns", "self"): {0, 1},
    ("fix", "--netns", "self", "--reserve", "32246"): {1},
    ("fix", "--reserve", "32246", "--as", "pod"): {0},
    ("check", "--as", "nagios", "--netns", "self"): {0, 1},
    ("wait", "--timeout", "0.1", "127.0.0.1:1"): {1},
    ("run", "--", "true"): {0},
    ("run", "--in-process", "--", "true"): {0},
    ("watch", "--for", "0.1s", "--json"): {0, 1, 3},
    ("audit", "--quick", "--", "bash", "-c", "echo >/dev/tcp/{host}/{port}"): {1},
    ("audit", "--list"): {0},
    ("report", "/nowhere"): {2},
    ("schema", "scan"): {0},
    ("demo",): {0},
    ("completion", "zsh"): {0},
    ("man", "--raw"): {0},
}


@pytest.fixture(scope="session")
def single_file() -> str:
    """The file that ``make dist`` built."""
    if not FILE.exists():
        (pytest.fail if CI else pytest.skip)("run make dist first")
    return str(FILE)


def test_it_is_small(single_file: str) -> None:
    assert FILE.stat().st_size <= 5_000_000


@pytest.mark.usefixtures("root_only")
@pytest.mark.parametrize("python", PYTHONS)
def test_every_command_runs(python: str, single_file: str) -> None:
    subprocess.run([find("ip"), "link", "set", "lo", "up"], check=True)
    failed = []
    for command, statuses in COMMANDS.items():
        done = subprocess.run(
            [python, single_file, *command], capture_output=True, text=True, timeout=110, check=False, cwd="/"
        )
        if done.returncode not in statuses or "Traceback" in done.stderr:
            failed.append((command, done.returncode, done.stderr[-600:]))
    assert failed == []


@pytest.mark.usefixtures("root_only")
def test_it_finds_a_self_connect(single_file: str) -> None:
    hold = "import socket,sys; s=socket.socket(); s.bind(('127.0.0.1',40000)); s.connect(('127.0.0.1',40000))"
    hold += "; print(flush=True); sys.stdin.read()"
    subprocess.run([find("ip"), "link", "set", "lo", "up"], check=True)
    with subprocess.Popen([PYTHONS[0], "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdout.readline()
        command = [PYTHONS[0], single_file, "scan", "--netns", "self", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        holder.stdin.close()
    assert done.returncode == 1
    assert [one["endpoint"] for one in json.loads(done.stdout)["self_connects"]] == ["127.0.0.1:40000"]


IMPORT_ALL = """
import importlib, sys, zipfile
COMMAND = "core kernel host guards watch fleet audit lab cli".split()
sys.path.insert(0, sys.argv[1])
names = [name[:-3].replace("/", ".") for name in zipfile.ZipFile(sys.argv[1]).namelist()
         if name.startswith("tailbite/") and name.endswith(".py") and not name.endswith("__.py")]
for name in names:
    if "injected" in name or "cures" in name or name.split(".")[1] not in COMMAND:
        continue
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in ("numpy", "matplotlib", "anyio", "pytest"):
            raise
print(len(names))
"""


@pytest.mark.parametrize("python", PYTHONS)
def test_every_module_can_be_imported(python: str, single_file: str) -> None:
    """The packages of the command need no more than the oldest Python has; the library itself needs 3.11."""
    command = [python, "-I", "-c", IMPORT_ALL, single_file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    assert int(done.stdout) > 200
