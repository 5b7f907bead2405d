"""No command says that a self-connect can happen on a host whose guard refuses it."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from tailbite.core.ports import PortRange
from tailbite.guards.host import firewall as host_firewall
from tailbite.host.explain.checkup import check_host
from tailbite.host.explain.finding import Finding, Severity
from tailbite.host.explain.subject import Service
from tailbite.host.explain.why import explain_port
from tailbite.host.see.host_guard import refused_versions
from tailbite.host.see.namespaces import current_namespace
from tailbite.host.see.port import inspect_port
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.guards.host.bpf_match import IpVersion

PORT = 40000


def is_taken() -> bool:
    """Dial the dead port as a plain client does; True if it is connected to itself."""
    with socket.socket() as client:
        connected = client.connect_ex(("127.0.0.1", PORT)) == 0
        abort(client)
    return connected


def findings(host: str | None = "127.0.0.1") -> list[Finding]:
    """Return what ``why`` and ``doctor`` say about the port."""
    (shot,) = inspect_port(PORT, [current_namespace()])
    (asked,) = explain_port(shot, (), host, guarded=refused_versions).findings
    (checked,) = (one for one in check_host([current_namespace()], [Service(PORT)]).findings if one.code == "TB109")
    return [asked, checked]


def install(version: IpVersion) -> None:
    firewall = host_firewall.find_firewall(version)
    for line in host_firewall.install_commands(host_firewall.read_state(firewall), firewall):
        host_firewall.run_firewall(line)


@pytest.mark.peers
@pytest.mark.usefixtures("network")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")
def test_a_guarded_host_is_not_said_to_be_at_risk(peer: Callable[[str], str]) -> None:
    peer("iptables")
    write_ephemeral_range(PortRange(PORT, PORT + 1))
    assert is_taken()
    assert [one.severity for one in findings()] == [Severity.WARNING] * 2
    install(4)
    asked, checked = findings()
    assert (asked.severity, checked.severity) == (Severity.NOTICE, Severity.WARNING)  # the doctor asks for IPv6 too
    install(6)
    assert refused_versions() == {4, 6}
    assert not is_taken()
    for one in (*findings(), *findings(None)):
        assert one.severity is Severity.NOTICE
        assert "host guard refuses" in f"{one.what} {one.why}"
        assert not any(fact.name.startswith("odds") for fact in one.facts)
