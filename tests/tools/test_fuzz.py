"""Parsers answer any input, or refuse it with the exception that they document.

One second each here; ``.ci/run`` takes five and ``make fuzz`` a minute.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import fuzz

needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed (it has no wheel for this Python)"
)


@needs_atheris
@pytest.mark.parametrize("name", fuzz.PARSERS)
def test_only_documented_errors(name: str, tmp_path: Path) -> None:
    done = fuzz.fuzz(name, 1, tmp_path)
    assert done.returncode == 0, f"{list(tmp_path.glob('failed-*'))}\n{done.stderr[-3000:]}"


@needs_atheris
def test_a_parser_that_fails_is_found_out(tmp_path: Path) -> None:
    done = fuzz.fuzz("broken", 30, tmp_path)
    assert done.returncode != 0
    assert "here to be found out" in done.stdout + done.stderr
    (failed,) = tmp_path.glob("failed-*")
    assert failed.read_bytes().startswith(b"broken")
