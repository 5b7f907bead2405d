"""Requests that would do harm are refused before anything is changed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from support.boot import empty_tree
from tailbite.core.ports import PortRange, PortSet
from tailbite.host.change.plan import FixRefused, SettingsUnreadable, plan_boot_changes, plan_running_changes
from tailbite.host.see import namespaces
from tailbite.host.see.records import NotVisible
from tailbite.host.see.snapshot import take_snapshot
from tailbite.host.sysctl.text import OWN_FILE
from tailbite.host.sysctl.tree import read_tree
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.usefixtures("network")
def test_a_reservation_that_leaves_no_port_is_refused() -> None:
    write_ephemeral_range(PortRange(40000, 40001))
    here = take_snapshot(namespaces.current_namespace())
    with pytest.raises(FixRefused, match="EADDRNOTAVAIL"):
        plan_running_changes(here, PortSet.parse("40000-40001"), None)
    assert plan_running_changes(here, PortSet.parse("40000-40001"), PortRange(40000, 40002))
    with pytest.raises(FixRefused, match="below port 1024"):
        plan_running_changes(here, PortSet(), PortRange(80, 90))


def test_a_masked_file_of_ours_is_refused(tmp_path: Path) -> None:
    root = empty_tree(tmp_path)
    (root / OWN_FILE.lstrip("/")).symlink_to("/dev/null")
    with pytest.raises(FixRefused, match="/dev/null"):
        plan_boot_changes(read_tree(root), PortSet.of([8125]), None)


@pytest.mark.parametrize("kind", ["directory", "nowhere", "60-tailbite.conf"])
def test_a_file_of_ours_that_is_not_a_file_is_refused(tmp_path: Path, kind: str) -> None:
    root = empty_tree(tmp_path)
    place = root / OWN_FILE.lstrip("/")
    place.mkdir() if kind == "directory" else place.symlink_to(kind)
    with pytest.raises(FixRefused, match=r"60-tailbite\.conf is not a file, but a directory or a link to nothing"):
        plan_boot_changes(read_tree(root), PortSet.of([8125]), None)


def test_files_that_could_not_be_read_are_not_merged_with_and_not_said_to_need_nothing(tmp_path: Path) -> None:
    """A file that is not readable may win, so that "nothing to do" would be a claim about it."""
    root = empty_tree(tmp_path)
    (root / "etc/sysctl.d/50-a.conf").write_text("net.ipv4.ip_local_reserved_ports = 8125\n")
    tree = read_tree(root)
    assert not plan_boot_changes(tree, PortSet.of([8125]), None)
    hidden = replace(tree, not_visible=(NotVisible("what 70-x.conf sets at boot", "run as root to see it"),))
    with pytest.raises(SettingsUnreadable, match=r"without what 70-x\.conf sets at boot \(run as root to see it\)"):
        plan_boot_changes(hidden, PortSet.of([8125]), None)
