"""The journal keeps what is still to be reverted."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tailbite.core.ports import PortSet
from tailbite.host.change.apply import apply_changes, revert_last
from tailbite.host.change.journal import Journal
from tailbite.host.change.records import SettingChange
from tailbite.host.see import namespaces
from tailbite.kernel.namespace import fresh_network
from tailbite.kernel.sysctl import read_reserved_ports

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tailbite.host.see.records import Namespace


@pytest.mark.needs("SO_NETNS_COOKIE")
@pytest.mark.usefixtures("network")
def test_a_namespace_that_may_not_be_entered_is_not_called_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settings are still there, so the entry that reverts them stays."""
    here, ports = namespaces.current_namespace(), PortSet.parse("32246")
    journal = Journal(tmp_path)
    change = SettingChange(here, "net.ipv4.ip_local_reserved_ports", "", "32246", ports)
    list(apply_changes([change], journal, tmp_path))

    def refuse(namespace: Namespace) -> AbstractContextManager[None]:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(namespace))

    with fresh_network(), monkeypatch.context() as patch:
        patch.setattr(namespaces, "visible_namespaces", lambda: ((here,), ()))
        patch.setattr("tailbite.host.change.apply.inside", refuse)
        with pytest.raises(PermissionError):
            list(revert_last(journal, tmp_path))
    assert len(journal.entries()) == 1
    assert read_reserved_ports() == ports
    assert [done.note for done in revert_last(journal, tmp_path)] == [""]
    assert not read_reserved_ports()
