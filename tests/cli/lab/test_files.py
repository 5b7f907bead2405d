"""Data and figures of the experiments."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.lab import DATA, run_lab


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
        done = run_lab(experiment, *arguments, "--figure", str(stem))
        assert done.returncode == 0, done.stderr
        pictures.append((Path(f"{stem}.svg").read_bytes(), Path(f"{stem}.png").read_bytes()))
    assert pictures[0] == pictures[1]
    assert b"<dc:date>" not in pictures[0][0]
