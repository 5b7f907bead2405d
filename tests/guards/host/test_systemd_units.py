"""The systemd units: what systemd takes, written once, gone after remove."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tailbite.errors import FirewallError
from tailbite.guards.host import systemd_units

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.peers
@pytest.mark.parametrize("variant", [None, "legacy", "nft"])
def test_systemd_takes_them(tmp_path: Path, peer: Callable[[str], str], variant: str | None) -> None:
    systemd_analyze = peer("systemd-analyze")
    written = systemd_units.write_units(systemd_units.units(variant), tmp_path)
    result = subprocess.run([systemd_analyze, "verify", *written], capture_output=True, text=True)
    complaints = [line for line in (result.stdout + result.stderr).splitlines() if "tailbite" in line]
    assert (result.returncode, complaints) == (0, [])


@pytest.mark.peers
def test_the_exposure_is_low(tmp_path: Path, peer: Callable[[str], str]) -> None:
    options = ("security", "--offline=true", "--threshold=20", "--no-pager")
    service, _ = systemd_units.write_units(systemd_units.units(), tmp_path)
    done = subprocess.run([peer("systemd-analyze"), *options, service], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:]


def test_the_command_is_this_python_with_the_variant_asked_for() -> None:
    text = systemd_units.units("nft", ("/opt/100%/bin/tailbite",))[systemd_units.SERVICE]
    assert "\nExecStart=/opt/100%%/bin/tailbite host-guard install --apply --quiet --variant nft\n" in text
    assert "-m tailbite host-guard install --apply --quiet\n" in systemd_units.units()[systemd_units.SERVICE]


def test_written_once_and_removed(tmp_path: Path) -> None:
    texts = systemd_units.units()
    assert {path.name for path in systemd_units.write_units(texts, tmp_path)} == set(texts)
    assert systemd_units.write_units(texts, tmp_path) == []
    (tmp_path / systemd_units.TIMER).write_text("an older version's")
    assert [path.name for path in systemd_units.write_units(texts, tmp_path)] == [systemd_units.TIMER]
    assert {path.name for path in tmp_path.iterdir()} == set(texts)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}
    assert len(systemd_units.remove_units(tmp_path)) == 2
    assert systemd_units.remove_units(tmp_path) == []


def test_systemctl_that_fails_or_is_not_there() -> None:
    with pytest.raises(FirewallError, match="no bus"):
        systemd_units.run_systemctl(("sh", "-c", "echo no bus >&2; exit 1"))
    with pytest.raises(FirewallError):
        systemd_units.run_systemctl(("/nowhere/systemctl",))
