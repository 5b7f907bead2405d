"""``tailbite man`` prints the source of the page where nobody reads it on a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tailbite.cli.man import command

PAGE = Path(__file__).parents[2] / "share/man/man8/tailbite.8"


@pytest.mark.parametrize("arguments", [[], ["--raw"]])
def test_a_pipe_gets_the_source(arguments: list[str]) -> None:
    result = CliRunner().invoke(command, arguments)
    assert (result.exit_code, result.output) == (0, PAGE.read_text(encoding="utf-8"))
