"""Ctrl-C, SIGTERM and SIGKILL, at any time: no process of the client, the audit or its namespaces is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from audit.leftovers import MARK, marked, nothing_left, wait_for

CLIENTS = Path(__file__).with_name("clients.py")


def start(kind: str, folder: Path, mark: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tailbite", "audit", "--recovery", "--"),
            *(sys.executable, str(CLIENTS), kind, "{host}", "{port}"),
        ],
        env={**os.environ, **mark, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def clients_run(mark: dict[str, str], least: int) -> bool:
    """Tell whether so many processes of the client itself run."""
    found = 0
    for process in marked(mark[MARK]):
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        found += words[1:2] == [os.fsencode(CLIENTS)]
    return found >= least


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize(("kind", "processes"), [("stubborn", 4), ("daemonising", 1), ("flooding", 1), ("silent", 1)])
def test_an_interrupted_audit_leaves_nothing(
    number: signal.Signals, kind: str, processes: int, tmp_path: Path
) -> None:
    with nothing_left(tmp_path) as mark:
        audit = start(kind, tmp_path, mark)
        wait_for(lambda: clients_run(mark, processes), "the client did not start")
        os.killpg(audit.pid, number)
        out, err = audit.communicate(timeout=20)
        assert audit.returncode == 130, err
        assert out == b""
        assert b"Traceback" not in err


@pytest.mark.usefixtures("network")
def test_an_audit_that_is_interrupted_at_any_step_of_its_start_leaves_nothing(tmp_path: Path) -> None:
    for step in range(1, 5):
        with nothing_left(tmp_path) as mark:
            audit = start("stubborn", tmp_path, mark)
            # One more process each time: the command, its warden, the keeper, init, the client.
            wait_for(lambda step=step: len(marked(mark[MARK])) >= step + 1, "no process")  # type: ignore[misc]
            os.killpg(audit.pid, signal.SIGINT)
            _, err = audit.communicate(timeout=20)
            assert audit.returncode == 130, err


@pytest.mark.usefixtures("network")
def test_a_killed_audit_leaves_no_process(tmp_path: Path) -> None:
    with nothing_left(tmp_path) as mark:
        audit = start("stubborn", tmp_path, mark)
        wait_for(lambda: clients_run(mark, 4), "the client did not start")
        audit.kill()
        audit.communicate(timeout=20)
        wait_for(lambda: marked(mark[MARK]) == [], "processes outlive the audit")
        for folder in tmp_path.iterdir():  # nobody was left to remove it
            for path in sorted(folder.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
            folder.rmdir()
