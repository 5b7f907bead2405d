"""The exit statuses that each help promises are those that the command ends with."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import click
import pytest

from support.forked_cli import CIRCUMSTANCES, Case, run_all
from support.holders import Holder
from tailbite.cli import status
from tailbite.cli.group import tailbite

DATA = Path(__file__).parents[2] / "docs/data"
PORT = 40000

# For each command: the line that ends with each status that its help promises, and the circumstance if there is one.
# A reason in place of a line says where else it is tested.
_PRIVATE = "no settings"
PROMISED: dict[str, dict[int, tuple[str, str] | str]] = {
    "demo": {
        0: "acts that succeed: tests/cli/test_demo.py",
        1: "an act that failed: tests/cli/test_demo.py",
        4: ("", _PRIVATE),
    },
    "run": {
        127: ("-- no-such-program", ""),
        126: ("-- /", ""),
        4: ("--require -- true", "5 descriptors"),
    },
    "wait": {
        0: ("-t 0 --free 8080", ""),
        1: ("-t 0 127.0.0.1:1", ""),
        2: ("web", ""),
        4: ("-t 0 --free 192.0.2.1:80", ""),
        126: ("-t 0 --free 8080 -- /", ""),
        127: ("-t 0 --free 8080 -- no-such-program", ""),
        130: ("-t never 127.0.0.1:1", "SIGINT"),
    },
    "scan": {
        0: ("--netns self", ""),
        1: ("--netns self", "self-connect"),
        3: ("", "no processes"),
        4: "a destruction that is refused: tests/cli/test_scan.py",
    },
    "why": {0: ("22 --netns self", ""), 1: (f"{PORT} --netns self", ""), 3: ("22 --netns self", _PRIVATE)},
    "doctor": {
        0: ("--netns self", ""),
        1: (f"--netns self --ports {PORT}", ""),
        3: ("", "no processes"),
    },
    "fix": {
        0: ("--netns self --no-files", ""),
        1: ("--reserve 8125 --no-files", ""),
        2: ("--reserve 0", ""),
        3: ("--netns all --no-files", "no processes"),
        4: ("--reserve 8125 --no-files", _PRIVATE),
    },
    "watch": {
        0: ("--netns self --source poll --for 20ms", ""),
        1: ("--netns self --source poll --for 20ms", "self-connect"),
        3: ("--source poll --for 20ms", "no processes"),
        4: ("--source bpf --for 20ms", "no processes"),
        130: ("--netns self --source poll", "SIGINT"),
    },
    "exporter": {
        0: ("--netns self --source poll --textfile TMP/m.prom --once", ""),
        2: ("--budget lots", ""),
        4: ("--netns self --source poll --web.listen-address 192.0.2.1:9745", ""),
        130: ("--netns self --source poll --textfile TMP/n.prom", "SIGINT"),
    },
    "check": {
        0: ("--netns self --timeout 10m", ""),
        1: ("--netns self --timeout 10m", "self-connect"),
        3: ("", "no processes"),
        2: ("--netns other", ""),
    },
    "audit": {
        0: ("--check-catalogue --catalogue nc", ""),
        1: "a client that is not immune: tests/cli/test_audit.py",
        3: ("--quick -- true {port}", ""),
        4: ("--quick -- true {port}", _PRIVATE),
        130: "an interrupted audit: tests/cli/test_audit.py",
    },
    "lab loop": {
        0: (f"--from {DATA}/loop-story.jsonl.gz", ""),
        1: "a kernel that differs from the model: tests/lab/test_loop.py",
        4: ("", _PRIVATE),
    },
    "lab parity": {
        0: "agreement in all cells: tests/cli/lab/test_group.py",
        1: "a kernel that differs from the model: tests/lab/test_parity.py",
        4: ("", _PRIVATE),
    },
    "lab odds": {
        0: ("--port 32774 --range 32768-60999", ""),
        2: ("--port 0", ""),
        4: ("--port 32774", _PRIVATE),
    },
    "lab handshake": {
        0: (f"--from {DATA}/handshake.jsonl", ""),
        1: "a kernel without self-connects: no such kernel is known",
        4: ("", _PRIVATE),
    },
    "lab cures": {
        0: (f"--from {DATA}/cures.jsonl", ""),
        1: "strategies that fail: tests/lab/test_cures.py",
        4: ("", _PRIVATE),
    },
    "report": {
        0: ("TMP/fine", ""),
        1: ("TMP/found", ""),
        2: ("TMP/empty", ""),
        3: ("TMP/part", ""),
    },
    "schema": {0: ("scan", ""), 2: ("scann", "")},
    "completion": {0: ("bash", ""), 2: ("tcsh", "")},
    "man": {0: ("--raw", ""), 2: ("--roff", "")},
}
ELSEWHERE = {f"host-guard {name}": "tests/cli/test_host_guard.py" for name in ("install", "remove", "status")}
"""Commands that need iptables."""


def helps(group: click.Group, path: tuple[str, ...] = ()) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            found |= helps(command, (*path, name))
        elif command is not None:
            found[" ".join((*path, name))] = command.help or ""
    return found


def test_each_status_that_a_help_promises_has_a_line_here() -> None:
    promised = {}
    for name, text in helps(tailbite).items():
        (sentence,) = re.findall(r"^\s*Exit status:(.*?)(?:\n\s*\n|\Z)", text, re.MULTILINE | re.DOTALL)
        promised[name] = {int(number) for number in re.findall(r"\b(\d+)\b(?! s\b)", sentence)}
    assert {name: set(statuses) for name, statuses in PROMISED.items()} == {
        name: statuses for name, statuses in promised.items() if name not in ELSEWHERE
    }
    assert set(ELSEWHERE) < set(promised)


def test_the_statuses_of_a_group_are_those_of_its_table() -> None:
    known = {value for name in status.__all__ if isinstance(value := getattr(status, name), int)}
    for statuses in PROMISED.values():
        assert set(statuses) <= known | {126, 127}


def _reports(folder: Path) -> None:
    """Make what four groups of hosts have to say."""
    scan = {"schema": "tailbite.scan/1", "taken": 0, "namespaces": [], "self_connects": [], "not_visible": []}
    for name in ("fine", "found", "part", "empty"):
        (folder / name).mkdir()
    for name in ("fine", "part"):
        (folder / name / "host.scan.json").write_text(json.dumps(scan))
    (folder / "part/other.scan.json").write_text("{")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.usefixtures("network")
def test_each_command_ends_with_the_statuses_that_its_help_promises(tmp_path: Path) -> None:
    _reports(tmp_path)
    cases: list[tuple[int, Case, bool]] = []
    for name, lines in PROMISED.items():
        for wanted, line in lines.items():
            if isinstance(line, str):
                continue
            words = f"{name} {line[0]}".replace("TMP", str(tmp_path)).split()
            number = signal.SIGINT if line[1] == "SIGINT" else 0
            plain = line[1] if line[1] in CIRCUMSTANCES else "nothing unusual"
            cases.append((wanted, Case(words, plain, number, 3 if number else 0), line[1] == "self-connect"))
    with Holder("self_chosen", "127.0.0.1", reuse=False).held(PORT):
        found = run_all([Case(["scan", "--netns", "self", "-j"]), *(case for _, case, held in cases if held)])
    (tmp_path / "found/host.scan.json").write_text(found[0].out)
    quiet = [each for each in cases if not each[2]]
    results = run_all([case for _, case, _ in quiet])
    loud = [each for each in cases if each[2]]
    pairs = zip([*quiet, *loud], [*results, *found[1:]], strict=True)
    assert [(wanted, case, one) for (wanted, case, _), one in pairs if one.status != wanted] == []
