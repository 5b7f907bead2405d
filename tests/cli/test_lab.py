"""``tailbite lab`` as its users call it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[2] / "docs" / "data"


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tailbite", "lab", *arguments], capture_output=True, text=True, timeout=110, **options
    )


@pytest.mark.parametrize("name", ["loop", "parity", "odds", "handshake", "cures"])
def test_every_experiment_explains_itself(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: tailbite lab {name}")


def test_odds_says_that_the_storys_port_never_comes_and_its_neighbour_does() -> None:
    never = run("odds", "--port", "32775", "--range", "32768-60999")
    assert never.returncode == 0
    assert "cannot happen" in never.stderr
    soon = run("odds", "--port", "32774", "--range", "32768-60999", "--every", "100ms")
    assert "21 minutes on average" in soon.stderr
    assert "14,116" in soon.stdout
    assert all(len(line) <= 80 for line in soon.stdout.splitlines())


def test_odds_of_a_fleet_as_json() -> None:
    """Calculated and simulated agree."""
    fleet = ["--hosts", "1e5", "--outage", "10m", "--every", "100ms"]
    arguments = ["odds", "--port", "32774", "--range", "32768-60999", *fleet, "--json"]
    answer = json.loads(run(*arguments).stdout)
    assert answer["schema"] == "tailbite.lab.odds/1"
    assert answer["possible"] is True
    assert answer["expected_hosts"] == pytest.approx(1e5 * answer["probability"], rel=1e-3)
    assert answer["simulated_hosts"] == pytest.approx(answer["expected_hosts"], rel=0.02)


def test_odds_without_numpy_and_matplotlib_answers_but_does_not_draw(tmp_path: Path) -> None:
    hide = "import sys, importlib.util as u; f = u.find_spec; "
    hide += "u.find_spec = lambda n, *a: None if n in ('numpy', 'matplotlib') else f(n, *a); "
    hide += "sys.modules['numpy'] = sys.modules['matplotlib'] = None; from tailbite.cli import main; main()"
    plain = [sys.executable, "-c", hide, "lab", "odds", "--port", "32774", "--range", "32768-60999"]
    done = subprocess.run([*plain, "--outage", "1h", "--hosts", "100"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "of 100 hosts" in done.stdout
    drawn = subprocess.run([*plain, "--figure", str(tmp_path / "x")], capture_output=True, text=True, timeout=60)
    assert drawn.returncode == 4
    assert "pip install 'tailbite[lab]'" in drawn.stderr
    assert "Traceback" not in drawn.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("odds --port 1 --every soon", "soon"),
        ("odds --port 1 --every 0s", "more than 0"),
        ("odds --port 1 --range 5-1", "5-1"),
        ("odds --port 1 --hosts 5", "--outage"),
        ("odds --port 1 --hosts none --outage 1h", "whole number"),
        ("odds --port 1 --reserved x", "x"),
        ("odds --port 1 --reuse-address", "--bind-first"),
        ("odds --port 1 --outage 1ms", "second attempt"),
        ("loop --figure /no/such/folder/x", "no folder"),
        ("loop --data /no/such/folder/x", "no folder"),
        ("loop --from pyproject.toml", "is not a record"),
        (f"cures --from {DATA / 'handshake.jsonl'}", "another experiment"),
        (f"handshake --from {DATA / 'handshake.jsonl'} --pcap x", "leave out --pcap"),
        (f"loop --from {DATA / 'loop-story.jsonl.gz'} --port 32774", "leave out --port"),
        (f"cures --from {DATA / 'cures.jsonl'} --data x", "leave out --data"),
        ("cures --full --patience 1s", "leave them out"),
        ("cures --only magic", "magic"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(arguments: str, said: str) -> None:
    done = run(*arguments.split(), cwd=DATA.parents[1])
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_loop_measures_stores_and_draws_from_what_it_stored(tmp_path: Path) -> None:
    data, stem = tmp_path / "loop.jsonl.gz", tmp_path / "loop"
    done = run("loop", "--port", "40006", "--range", "40000-40199", "--hits", "60", "--data", str(data), "--json")
    answer = json.loads(done.stdout)
    assert answer["schema"] == "tailbite.lab.loop/1"
    assert answer["self_connects"] == 60
    assert answer["odd"] == 0
    again = run("loop", "--from", str(data), "--figure", str(stem), "--json")
    assert json.loads(again.stdout) == answer
    assert (tmp_path / "loop.svg").read_text().startswith("<?xml")
    assert (tmp_path / "loop.png").read_bytes().startswith(b"\x89PNG")


def test_loop_on_a_port_of_the_wrong_parity_ends_and_says_why() -> None:
    done = run("loop", "--port", "40007", "--range", "40000-40199", "--attempts", "3000")
    assert done.returncode == 0
    assert "no self-connect, and none is possible" in done.stderr
    assert "40007 is odd" in done.stderr


@pytest.mark.peers
def test_loop_with_telnet_itself() -> None:
    """The story's client, seen on the wire: its source ports are even, and it connects to itself."""
    arguments = ["--client", "telnet", "--port", "40002", "--range", "40000-40007", "--hits", "3", "--json"]
    done = run("loop", *arguments)
    if "not installed" in done.stderr and os.environ.get("CI", "").lower() != "true":
        pytest.skip("telnet is not installed")
    answer = json.loads(done.stdout)
    assert answer["self_connects"] == 3
    assert answer["odd"] == 0
    assert answer["attempts"] >= 3


def test_a_client_that_is_not_there_is_a_sentence() -> None:
    done = run("loop", "--client", "no-such-program {host} {port}")
    assert done.returncode == 4
    assert "no-such-program is not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_handshake_is_drawn_as_text_mermaid_and_pcap(tmp_path: Path) -> None:
    pcap = tmp_path / "self.pcap"
    done = run("handshake", "--pcap", str(pcap))
    assert done.returncode == 0
    assert "SYN-SENT      --> <SEQ=0><CTL=SYN>" in done.stdout
    assert "TIME-WAIT on 32246 <-> 32246" in done.stdout
    assert pcap.read_bytes()[:4] == (0xA1B23C4D).to_bytes(4, sys.byteorder)
    stored = run("handshake", "--from", str(DATA / "handshake.jsonl"), "--mermaid")
    assert stored.stdout.count("sequenceDiagram") == 3


@pytest.mark.parametrize(
    ("experiment", "arguments"),
    [
        ("loop", ["--from", str(DATA / "loop-default.jsonl.gz")]),
        ("handshake", ["--from", str(DATA / "handshake.jsonl")]),
        ("cures", ["--from", str(DATA / "cures.jsonl")]),
        ("odds", ["--port", "32774", "--range", "32768-60999"]),
    ],
)
def test_the_same_data_give_the_same_figure(experiment: str, arguments: list[str], tmp_path: Path) -> None:
    pictures = []
    for number in range(2):
        stem = tmp_path / str(number)
        done = run(experiment, *arguments, "--figure", str(stem))
        assert done.returncode == 0, done.stderr
        pictures.append((Path(f"{stem}.svg").read_bytes(), Path(f"{stem}.png").read_bytes()))
    assert pictures[0] == pictures[1]
    assert b"<dc:date>" not in pictures[0][0]


def test_the_stored_cures_show_what_the_readme_says() -> None:
    """Naive and closing clients keep the server down; where self-connects are prevented, no start failed."""
    answer = json.loads(run("cures", "--from", str(DATA / "cures.jsonl"), "--json").stdout)
    assert answer["as_claimed"] is True
    by_name = {line["strategy"]: line for line in answer["strategies"]}
    assert by_name["naive"]["down"] is None
    assert by_name["naive"]["failed"] == by_name["naive"]["restarts"]
    for name in ("compare and close", "as Go"):
        rounds = [one for one in answer["rounds"] if one["strategy"] == name]
        assert not any(one["helped"] for one in rounds), "really waited out"
        # A minute, or more where somebody connected to itself anew over the TIME-WAIT.
        assert all(one["down"] > 55 for one in rounds)
        assert min(one["down"] for one in rounds) < 65
    for name in ("port range", "bind and look", "reserved port", "host guard"):
        assert (by_name[name]["failed"], by_name[name]["self_connects"]) == (0, 0)


def test_ctrl_c_ends_a_loop_with_130_and_leaves_no_process() -> None:
    loop = [sys.executable, "-m", "tailbite", "lab", "loop", "--port", "40007", "--range", "40000-40999"]
    process = subprocess.Popen(
        [*loop, "--attempts", "1e9", "--workers", "2", "--hits", "5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 30
    while len(workers := children.read_text().split()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) == 2
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert b"Traceback" not in said
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
