"""``tailbite lab loop`` as a user calls it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.guarded import wait_until
from support.lab import run_lab
from tailbite.cli.lab.loop import _workers
from tailbite.core.selection import Selection


def test_loop_measures_stores_and_draws_from_what_it_stored(tmp_path: Path) -> None:
    data, stem = tmp_path / "loop.jsonl.gz", tmp_path / "loop"
    done = run_lab("loop", "--port", "40006", "--range", "40000-40199", "--hits", "60", "--data", str(data), "--json")
    answer = json.loads(done.stdout)
    assert answer["schema"] == "tailbite.lab.loop/1"
    assert answer["self_connects"] == 60
    assert answer["odd"] == 0
    again = run_lab("loop", "--from", str(data), "--figure", str(stem), "--json")
    assert json.loads(again.stdout) == answer
    assert (tmp_path / "loop.svg").read_text().startswith("<?xml")
    assert (tmp_path / "loop.png").read_bytes().startswith(b"\x89PNG")


def test_loop_on_a_port_of_the_wrong_parity_ends_and_says_why() -> None:
    done = run_lab("loop", "--port", "40007", "--range", "40000-40199", "--attempts", "3000")
    assert done.returncode == 0
    assert "no self-connect, and none is possible" in done.stderr
    assert "40007 is odd" in done.stderr


@pytest.mark.peers
def test_loop_with_telnet_itself() -> None:
    """The story's client, seen on the wire: its source ports are even, and it connects to itself."""
    arguments = ["--client", "telnet", "--port", "40002", "--range", "40000-40007", "--hits", "3", "--json"]
    done = run_lab("loop", *arguments)
    if "cannot run telnet" in done.stderr and os.environ.get("CI", "").lower() != "true":
        pytest.skip("telnet is not installed")
    answer = json.loads(done.stdout)
    assert answer["self_connects"] == 3
    assert answer["odd"] == 0
    assert answer["attempts"] >= 3


def test_a_client_that_is_not_there_is_a_sentence() -> None:
    done = run_lab("loop", "--client", "no-such-program {host} {port}")
    assert done.returncode == 2
    assert "cannot run no-such-program: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("selection", list(Selection))
def test_one_process_connects_where_those_to_other_addresses_would_move_its_sequence(selection: Selection) -> None:
    assert (_workers(selection) == 1) == (selection.is_shared or os.cpu_count() == 1)


def ignores_ctrl_c(pid: str) -> bool:
    (mask,) = re.findall(r"^SigIgn:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) & 1 << signal.SIGINT - 1)


def test_ctrl_c_ends_a_loop_with_130_and_leaves_no_process() -> None:
    loop = [sys.executable, "-m", "tailbite", "lab", "loop", "--port", "40007", "--range", "40000-40999"]
    process = subprocess.Popen(
        [*loop, "--attempts", "1e9", "--workers", "2", "--hits", "5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: len(children.read_text().split()) == 2, "both workers have started")
    workers = children.read_text().split()
    for worker in workers:
        wait_until(lambda name=worker: ignores_ctrl_c(name), "it measures")  # type: ignore[misc]
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert b"Traceback" not in said
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
