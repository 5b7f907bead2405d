"""Rules about a port are listed by the programs that this host has, and each that did not list them is named."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tailbite.host.see.firewall_rules import Rule
from tailbite.host.see.redirects import parse_ipvs, redirects_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_ipvs() -> None:
    text = "IP Virtual Server version 1.2.1\nProt LocalAddress:Port Scheduler Flags\nTCP  0A090001:1F90 rr \n"
    assert list(parse_ipvs(text, 8080)) == [Rule("ipvs TCP 0A090001:1F90 rr", destination="10.9.0.1")]
    assert list(parse_ipvs(text, 8081)) == []
    six = "TCP  [fd00:0000:0000:0000:0000:0000:0000:0001]:1F90 rr\n"
    assert [one.destination for one in parse_ipvs(six, 8080)] == ["fd00:0000:0000:0000:0000:0000:0000:0001"]


@pytest.mark.peers
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may list rules")
@pytest.mark.usefixtures("network")
def test_a_rule_of_the_running_kernel_is_found(peer: Callable[[str], str]) -> None:
    done = subprocess.run(
        [
            peer("iptables"),
            "-t",
            "nat",
            "-A",
            "OUTPUT",
            *["-p", "tcp", "--dport", "8080", "-j", "REDIRECT", "--to-ports", "9"],
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"this kernel takes no NAT rule: {done.stderr}")
    assert len(redirects_of(8080).rules) == 1
    assert redirects_of(8081).rules == ()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 1", "nft list ruleset: exit status 1"),
        ("echo 'netlink: refused' >&2; exit 1", "nft list ruleset: netlink: refused"),
    ],
)
def test_a_program_that_does_not_list_the_rules_is_named(
    script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nft = tmp_path / "nft"
    nft.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert said in redirects_of(8080).not_inspected[0]
