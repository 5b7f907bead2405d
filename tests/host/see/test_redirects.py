"""Rules that answer for a port are recognised as iptables-save, nft and IPVS print them."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tailbite.host.see.redirects import parse_iptables, parse_ipvs, parse_nft, redirects_of

if TYPE_CHECKING:
    from collections.abc import Callable

IPTABLES = """\
*nat
:DOCKER - [0:0]
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A OUTPUT -p tcp -m multiport --dports 81,90:95 -j REDIRECT --to-ports 7
-A KUBE-NODEPORTS -p tcp -m comment --comment "web" -m tcp --dport 30080 -j KUBE-EXT-ABC
-A INPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 54
-A POSTROUTING -p tcp -m tcp --dport 22 -j MASQUERADE
"""
NFT = """\
table ip x {
\tchain p {
\t\ttype nat hook output priority filter; policy accept;
\t\ttcp dport { 22, 1000-1005 } redirect to :99
\t\ttcp dport 1234 dnat to 127.0.0.1:44
\t\ttcp dport 80 accept
\t\tudp dport 53 redirect to :54
\t}
}
"""


@pytest.mark.parametrize(
    ("port", "count"), [(8080, 1), (81, 1), (90, 1), (93, 1), (96, 0), (30080, 1), (53, 0), (22, 0), (80, 0)]
)
def test_iptables(port: int, count: int) -> None:
    assert len(list(parse_iptables(IPTABLES, port))) == count


@pytest.mark.parametrize(("port", "count"), [(22, 1), (1000, 1), (1003, 1), (1006, 0), (1234, 1), (80, 0), (53, 0)])
def test_nft(port: int, count: int) -> None:
    assert len(list(parse_nft(NFT, port))) == count


NFT_SETS = """\
table ip y {
\tset published {
\t\ttype inet_service
\t\tflags interval
\t\telements = { 7001, 7100-7110 }
\t}
\tmap service-ips {
\t\ttype ipv4_addr . inet_proto . inet_service : verdict
\t\telements = { 10.96.0.1 . tcp . 443 : goto service-a,
\t\t\t     10.96.0.10 . udp . 54 : goto service-b }
\t}
\tchain p {
\t\ttcp dport @published redirect to :98
\t\tip daddr . meta l4proto . th dport vmap @service-ips
\t\tdnat to tcp dport map { 8443 : 10.0.0.1, 8444 : 10.0.0.2 }
\t}
}
"""


@pytest.mark.parametrize(
    ("port", "count"), [(7001, 1), (7105, 1), (7111, 0), (443, 1), (54, 0), (8443, 1), (8445, 0)]
)
def test_the_sets_and_maps_of_nft_are_read(port: int, count: int) -> None:
    """kube-proxy's rules in nftables mode have their ports in maps alone."""
    assert len(list(parse_nft(NFT_SETS, port))) == count


def test_a_rule_for_all_connections_answers_for_every_port() -> None:
    """A service mesh sends every connection to its proxy."""
    rule = "-A OUTPUT -p tcp -j REDIRECT --to-ports 15001"
    assert list(parse_iptables(f"*nat\n{rule}\n-A OUTPUT -p tcp -j OTHER_CHAIN\n", 8080)) == [f"iptables {rule}"]


def test_a_rule_for_all_ports_but_some_is_read_as_that() -> None:
    text = "-A OUTPUT -p tcp -m tcp ! --dport 22 -j REDIRECT --to-ports 15001\n"
    assert [len(list(parse_iptables(text, port))) for port in (22, 80)] == [0, 1]
    assert [len(list(parse_nft("tcp dport != 22 redirect to :15001\n", port))) for port in (22, 80)] == [0, 1]


def test_ipvs() -> None:
    text = "IP Virtual Server version 1.2.1\nProt LocalAddress:Port Scheduler Flags\nTCP  0A090001:1F90 rr \n"
    assert list(parse_ipvs(text, 8080)) == ["ipvs TCP 0A090001:1F90 rr"]
    assert list(parse_ipvs(text, 8081)) == []


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
