"""The systemd units are valid, and no more exposed than docs/watch.md says. Run under a booted systemd by hand."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.peers

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy/systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))


@pytest.mark.parametrize("name", SERVICES)
def test_the_exposure_is_low(name: str, peer: Callable[[str], str]) -> None:
    options = ("security", "--offline=true", "--threshold=20", "--no-pager")
    command = [peer("systemd-analyze"), *options, str(UNITS / name)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:]
    assert re.search(r"Overall exposure level for \S+: ([01]\.\d|2\.0) ", done.stdout)


def test_systemd_finds_nothing_wrong(tmp_path: Path, peer: Callable[[str], str]) -> None:
    for path in UNITS.iterdir():
        text = path.read_text().replace("/usr/bin/tailbite", "/bin/true")  # which a checkout has not
        (tmp_path / path.name).write_text(text)
    command = [peer("systemd-analyze"), "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "tailbite" in line]
    assert (done.returncode, ours) == (0, [])


def test_each_option_of_a_unit_is_one_of_the_command() -> None:
    for name in SERVICES:
        (line,) = re.findall(r"^ExecStart=/usr/bin/tailbite (\w+) (.*)$", (UNITS / name).read_text(), re.MULTILINE)
        command, arguments = line
        module = __import__(f"tailbite.cli.{command}", fromlist=["command"])
        known = {option for parameter in module.command.params for option in parameter.opts}
        assert {word for word in arguments.split() if word.startswith("--")} <= known
