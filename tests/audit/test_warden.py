"""Ctrl-C, SIGTERM and SIGKILL, at any time: no process, namespace or file is left, and what is known is reported."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

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
        wait_for(lambda: clients_run(mark, processes), "the client did not start", while_runs=audit)
        os.killpg(audit.pid, number)
        out, err = audit.communicate()
        assert audit.returncode == 130, err
        assert out == b""
        assert b"Traceback" not in err


@pytest.mark.usefixtures("network")
def test_an_audit_that_is_interrupted_at_any_step_of_its_start_leaves_nothing(tmp_path: Path) -> None:
    for step in range(1, 5):
        with nothing_left(tmp_path) as mark:
            audit = start("stubborn", tmp_path, mark)
            # One more process each time: the command, its warden, the observer, the guard, init, the client.
            wait_for(lambda step=step: len(marked(mark[MARK])) >= step + 1, "no process", while_runs=audit)  # type: ignore[misc]
            os.killpg(audit.pid, signal.SIGINT)
            _, err = audit.communicate()
            assert audit.returncode == 130, err


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("step", range(7))
def test_an_audit_that_is_killed_at_any_step_leaves_nothing(step: int, tmp_path: Path) -> None:
    with nothing_left(tmp_path) as mark:
        audit = start("stubborn", tmp_path, mark)
        # One more process each time: the command, its warden, the observer, the guard, init, the client and its own.
        wait_for(lambda: len(marked(mark[MARK])) >= step, "no process", while_runs=audit)
        audit.kill()
        audit.communicate()
        wait_for(lambda: marked(mark[MARK]) == [], "processes outlive the audit")


@pytest.mark.usefixtures("network")
def test_what_a_killed_warden_leaves_is_removed_by_the_command(tmp_path: Path) -> None:
    with nothing_left(tmp_path) as mark:
        audit = start("stubborn", tmp_path, mark)
        wait_for(lambda: clients_run(mark, 4), "the client did not start", while_runs=audit)
        for process in marked(mark[MARK]):
            with contextlib.suppress(OSError):  # it may have ended since
                if b"tailbite.audit" in Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0"):
                    os.kill(process, signal.SIGKILL)
        out, _ = audit.communicate()
        assert b"the process of this audit was killed" in b" ".join(out.split())
        assert audit.returncode == 3


MISSED = """
import pathlib, signal, sys, threading, time
from tailbite.audit import Client, Limits
from tailbite.audit.many import audit_many
running = pathlib.Path(sys.argv[1])
def interrupt():
    while not running.exists():
        time.sleep(0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
threading.Thread(target=interrupt).start()
client = Client("silent", ("sh", "-c", f"touch {running}; sleep 600; : {{port}}"))
try:
    list(audit_many([client], Limits(dial=500), jobs=1))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.usefixtures("network")
def test_ctrl_c_is_honoured_although_it_does_not_interrupt_the_wait_for_the_audits(tmp_path: Path) -> None:
    # Another thread takes the signal, as the main one does just before it waits: the system call continues.
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with nothing_left(scratch):
        words = [sys.executable, "-c", MISSED, str(tmp_path / "running")]
        done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout == "interrupted\n", done.stderr


ENTRY = """
name = "{name}"
groups = ["own"]
command = ["{python}", "{script}", "{kind}", "{{host}}", "{{port}}"]
install = "tests"
[installed]
programs = ["sh"]
"""


@pytest.mark.usefixtures("network")
def test_what_an_interrupted_audit_of_many_knows_is_told_as_a_part(tmp_path: Path) -> None:
    scratch, own, reports = (tmp_path / name for name in ("scratch", "own", "reports"))
    for folder in (scratch, own, reports):
        folder.mkdir()
    for name, kind in (("first", "unable"), ("second", "stubborn"), ("third", "holding")):
        text = ENTRY.format(name=name, kind=kind, python=sys.executable, script=CLIENTS)
        (own / f"{name}.toml").write_text(text, encoding="utf-8")
    with nothing_left(scratch) as mark:
        audit = subprocess.Popen(
            [
                *(sys.executable, "-m", "tailbite", "audit", "--jobs", "1", "--json", "--catalogue", str(own)),
                *("--html", str(reports / "x.html"), "--junit", str(reports / "x.xml")),
            ],
            env={**os.environ, **mark, "TMPDIR": str(scratch)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        wait_for(lambda: clients_run(mark, 4), "the second client did not start", while_runs=audit)
        os.killpg(audit.pid, signal.SIGINT)
        out, err = audit.communicate()
    assert audit.returncode == 130, err
    told = json.loads(out)
    assert [client["client"] for client in told["clients"]] == ["first"]
    assert told["not_audited"] == ["second", "third"]
    assert b"interrupted: 1 of 3 clients were audited" in err
    assert sorted(file.name for file in reports.iterdir()) == ["x.html", "x.xml"]
    assert "not audited: second, third." in (reports / "x.html").read_text(encoding="utf-8")
    suite = ET.fromstring((reports / "x.xml").read_text(encoding="utf-8"))
    assert (suite.get("tests"), suite.get("skipped")) == ("3", "3")
    assert [case.get("name") for case in suite] == ["first", "second", "third"]
