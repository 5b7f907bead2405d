"""``tailbite lab``: help, and wrong usage of every experiment."""

from __future__ import annotations

import pytest

from support.lab import DATA, run_lab


@pytest.mark.parametrize("name", ["loop", "parity", "odds", "handshake", "cures"])
def test_every_experiment_explains_itself(name: str) -> None:
    done = run_lab(name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: tailbite lab {name}")


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
    done = run_lab(*arguments.split(), cwd=DATA.parents[1])
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
