"""The systemd units: what systemd takes, written once, gone after remove."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tailbite.errors import FirewallError
from tailbite.guards import unit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.peers
@pytest.mark.parametrize("variant", [None, "legacy"])
def test_systemd_takes_them(tmp_path: Path, peer: Callable[[str], str], variant: str | None) -> None:
    systemd_analyze = peer("systemd-analyze")
    written = unit.write(unit.units(variant), tmp_path)
    result = subprocess.run([systemd_analyze, "verify", *written], capture_output=True, text=True)
    complaints = [line for line in (result.stdout + result.stderr).splitlines() if "tailbite" in line]
    assert (result.returncode, complaints) == (0, [])


def test_the_command_is_this_python_with_the_variant_asked_for() -> None:
    text = unit.units("nft", ("/opt/100%/bin/tailbite",))[unit.SERVICE]
    assert "\nExecStart=/opt/100%%/bin/tailbite host-guard install --quiet --variant nft\n" in text
    assert "-m tailbite host-guard install --quiet\n" in unit.units()[unit.SERVICE]


def test_written_once_and_removed(tmp_path: Path) -> None:
    texts = unit.units()
    assert {path.name for path in unit.write(texts, tmp_path)} == set(texts)
    assert unit.write(texts, tmp_path) == []
    (tmp_path / unit.TIMER).write_text("an older version's")
    assert [path.name for path in unit.write(texts, tmp_path)] == [unit.TIMER]
    assert {path.name for path in tmp_path.iterdir()} == set(texts)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}
    assert len(unit.remove(tmp_path)) == 2
    assert unit.remove(tmp_path) == []


def test_systemctl_that_fails_or_is_not_there() -> None:
    with pytest.raises(FirewallError, match="no bus"):
        unit.run(("sh", "-c", "echo no bus >&2; exit 1"))
    with pytest.raises(FirewallError):
        unit.run(("/nowhere/systemctl",))
