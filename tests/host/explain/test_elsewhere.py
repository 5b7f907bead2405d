"""The same number elsewhere: other protocols, rules in front of sockets, other network namespaces."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from support.abilities import has_ability
from tailbite.core.ports import PortRange, PortSet
from tailbite.host.explain.finding import Severity
from tailbite.host.explain.why import Explanation, explain_port
from tailbite.host.see.namespaces import current_namespace
from tailbite.host.see.port import PortSnapshot, PortUse, inspect_port
from tailbite.host.see.records import Namespace, NamespaceKind

if TYPE_CHECKING:
    from collections.abc import Callable

PORT = 7000


def explain() -> Explanation:
    (shot,) = inspect_port(PORT, [current_namespace()])
    return explain_port(shot)


@pytest.mark.usefixtures("network")
def test_a_udp_socket_is_told_and_is_not_in_the_way() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", PORT))
        free, other = explain().findings
        socket.create_server(("127.0.0.1", PORT)).close()
    assert (free.code, other.code, other.severity) == ("TB110", "TB116", Severity.NOTICE) or (
        other.code,
        free.code,
    ) == ("TB110", "TB116")
    udp = free if free.code == "TB116" else other
    assert f"UDP port {PORT} is in use by " in udp.what
    assert f"(pid {os.getpid()})" in udp.what


@pytest.mark.peers
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may list rules")
@pytest.mark.usefixtures("network")
def test_a_nat_rule_that_answers_for_the_port_is_told(peer: Callable[[str], str]) -> None:
    rules = f"table ip t {{ chain c {{ type nat hook output priority 0; tcp dport {PORT} redirect to :9999; }}; }}"
    done = subprocess.run([peer("nft"), "-f", "-"], input=rules, text=True, capture_output=True)
    if done.returncode:
        pytest.skip(f"this kernel takes no NAT rule: {done.stderr}")
    assert "TB117" in [one.code for one in explain().findings]
    (shot,) = inspect_port(PORT + 1, [current_namespace()])
    assert "TB117" not in [one.code for one in explain_port(shot).findings]


@pytest.mark.usefixtures("network")
def test_what_was_not_inspected_is_said_of_a_port_that_nothing_uses() -> None:
    (finding,) = explain().findings
    uses = "uses" if has_ability("BOUND_SOCKETS_LISTED") else "that this kernel lists uses"
    assert finding.what.startswith(f"No TCP socket {uses} port {PORT}")
    assert "eBPF" in str([fact.value for fact in finding.facts if fact.name == "not inspected"])


def test_other_namespaces_come_after_this_one_and_a_self_connect_there_counts() -> None:
    def shot(namespace: Namespace, *uses: PortUse) -> PortSnapshot:
        return PortSnapshot(
            namespace,
            PORT,
            uses,
            frozenset(),
            PortRange(32768, 60999),
            PortSet(),
            1024,
            True,
            True,
        )

    here = Namespace(1, NamespaceKind.OWN, "this namespace")
    there = Namespace(2, NamespaceKind.NAMED, "blue", "/run/netns/blue")
    seen = explain_port(shot(here), [shot(there)])
    assert [one.code for one in seen.findings] == ["TB110"]
    assert seen.elsewhere == ()
    assert not seen.is_bad
