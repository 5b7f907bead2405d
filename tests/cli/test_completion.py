"""``tailbite completion`` prints what ``share/`` has, and a shell accepts it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from conftest import find_peer
from tailbite.cli.completion import command
from tailbite.cli.share import COMPLETIONS

SHARE = Path(__file__).parents[2] / "share"


@pytest.mark.parametrize("shell", sorted(COMPLETIONS))
def test_it_prints_the_completions_of_the_shell(shell: str) -> None:
    result = CliRunner().invoke(command, [shell])
    assert (result.exit_code, result.output) == (0, (SHARE / COMPLETIONS[shell]).read_text(encoding="utf-8"))


def test_bash_completes_a_command_after_eval() -> None:
    script = 'eval "$(cat)"; COMP_WORDS=(tailbite sca); COMP_CWORD=1; _tailbite; echo "${COMPREPLY[@]}"'
    printed = CliRunner().invoke(command, ["bash"]).output
    done = subprocess.run(
        [find_peer("bash"), "-c", script], input=printed, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["scan"]


def test_another_shell_is_wrong_usage() -> None:
    result = CliRunner().invoke(command, ["ksh"])
    assert result.exit_code == 2
    assert "'ksh' is not one of 'bash', 'fish', 'zsh'" in result.output
