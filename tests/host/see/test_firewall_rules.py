"""Rules about a port are recognised as iptables-save and nft print them, along the jumps of their chains."""

from __future__ import annotations

import pytest

from tailbite.host.see.firewall_rules import Rule, RuleEffect, parse_iptables, parse_nft

IPTABLES = """\
*mangle
-A PREROUTING -p tcp -m tcp --dport 8443 -j TPROXY --on-port 9 --on-ip 127.0.0.1 --tproxy-mark 0x1/0x1
COMMIT
*filter
-A INPUT -p tcp -m tcp --dport 9200 -j REJECT --reject-with tcp-reset
-A INPUT -p udp -m udp --dport 9201 -j DROP
-A INPUT -m comment --comment "--dport 9202" -j DROP
-A FORWARD -p tcp -m tcp --dport 9203 -j DROP
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A OUTPUT -p tcp -m multiport --dports 81,90:95 -j REDIRECT --to-ports 7
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "dns" -m tcp --dport 53 -j KUBE-SVC-DNS
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m comment --comment "web" -m tcp --dport 30080 -j KUBE-EXT-ABC
-A KUBE-EXT-ABC -j KUBE-SVC-ABC
-A KUBE-SVC-ABC -m statistic --mode random --probability 0.5 -j KUBE-SEP-ABC
-A KUBE-SVC-DNS -j KUBE-SEP-ABC
-A KUBE-SEP-ABC -p tcp -m tcp -j DNAT --to-destination 10.244.0.5:8080
-A INPUT -p udp -m udp --dport 54 -j REDIRECT --to-ports 54
-A POSTROUTING -p tcp -m tcp --dport 22 -j MASQUERADE
COMMIT
"""
NFT = """\
table ip x {
\tset published {
\t\ttype inet_service
\t\tflags interval
\t\telements = { 7001 counter packets 1 bytes 60, 7100-7110 }
\t}
\tmap service-ips {
\t\ttype ipv4_addr . inet_proto . inet_service : verdict
\t\telements = { 10.96.0.1 . tcp . 443 : goto service-a,
\t\t\t     10.96.0.10 . udp . 54 : goto service-a,
\t\t\t     10.96.0.11 . tcp . 55 : accept }
\t}
\tchain p {
\t\ttype nat hook output priority filter; policy accept;
\t\ttcp dport { 22, 1000-1005,
\t\t\t     2000 } redirect to :99
\t\ttcp dport 1234 dnat to 127.0.0.1:44
\t\ttcp dport 80 accept
\t\tudp dport 53 redirect to :54
\t\tmeta l4proto { tcp, udp } th dport 5353 redirect to :54
\t\tmeta l4proto udp th dport 5354 redirect to :54
\t\ttcp dport @published redirect to :98
\t\tip daddr . meta l4proto . th dport vmap @service-ips
\t\tdnat to tcp dport map { 8443 : 10.0.0.1, 8444 : 10.0.0.2 }
\t\tip daddr 10.0.0.7 tcp dport 8500 jump service-a
\t}
\tchain service-a {
\t\tnumgen random mod 2 vmap { 0 : goto endpoint-a, 1 : goto endpoint-a }
\t}
\tchain endpoint-a {
\t\tmeta l4proto tcp dnat to 10.180.0.1:9376
\t}
}
table inet filter {
\tchain input {
\t\ttype filter hook input priority filter; policy drop;
\t\ttcp dport 9200 reject with tcp reset
\t\ttcp dport vmap { 9204 : drop, 9205 : accept }
\t\tiifname "dport 9206" drop
\t}
\tchain forward {
\t\ttype filter hook forward priority filter; policy accept;
\t\ttcp dport 9203 drop
\t}
}
"""


@pytest.mark.parametrize("port", [8080, 81, 90, 93, 30080, 8443, 53])
def test_iptables_sends_the_port_elsewhere(port: int) -> None:
    (rule,) = parse_iptables(IPTABLES, port)
    assert rule.effect is RuleEffect.ELSEWHERE
    assert f" {port} " in rule.text or "81,90:95" in rule.text


@pytest.mark.parametrize("port", [96, 54, 22, 80, 9201, 9202, 9203, 12345])
def test_iptables_says_nothing_of_other_ports(port: int) -> None:
    """The DNAT rule of an endpoint of kube-proxy is for any port, and only the rule of its service leads to it."""
    assert list(parse_iptables(IPTABLES, port)) == []


def test_the_address_of_a_rule_is_read() -> None:
    assert [one.destination for one in parse_iptables(IPTABLES, 53)] == ["10.96.0.10/32"]
    assert [one.destination for one in parse_nft(NFT, 8500)] == ["10.0.0.7"]


@pytest.mark.parametrize("port", [22, 1000, 1003, 2000, 1234, 5353, 7001, 7105, 443, 8443, 8500])
def test_nft_sends_the_port_elsewhere(port: int) -> None:
    assert {rule.effect for rule in parse_nft(NFT, port)} == {RuleEffect.ELSEWHERE}


@pytest.mark.parametrize("port", [1006, 80, 53, 5354, 7111, 54, 55, 8445, 9203, 9205, 9206, 12345])
def test_nft_says_nothing_of_other_ports(port: int) -> None:
    assert list(parse_nft(NFT, port)) == []


@pytest.mark.parametrize(("parse", "text", "port"), [(parse_iptables, IPTABLES, 9200), (parse_nft, NFT, 9204)])
def test_a_rule_that_drops_is_told_from_one_that_sends_elsewhere(parse: type, text: str, port: int) -> None:
    assert [one.effect for one in parse(text, port)] == [RuleEffect.DROPPED]
    assert [one.effect for one in parse(text, 9200)] == [RuleEffect.DROPPED]


def test_a_rule_for_all_connections_answers_for_every_port() -> None:
    """A service mesh sends every connection to its proxy, in chains of its own."""
    rule = "-A MESH_REDIRECT -p tcp -j REDIRECT --to-ports 15001"
    text = f"*nat\n-A OUTPUT -p tcp -j MESH_OUTPUT\n-A MESH_OUTPUT -j MESH_REDIRECT\n{rule}\n"
    assert list(parse_iptables(text, 8080)) == [Rule(f"iptables {rule}")]
    nft = "table ip n {\n chain o {\n type nat hook output priority 0;\n ip protocol tcp redirect to :9\n }\n}\n"
    assert list(parse_nft(nft, 8080)) == [Rule("nft ip protocol tcp redirect to :9")]
    assert list(parse_nft(nft.replace("protocol tcp", "protocol udp"), 8080)) == []


def test_a_rule_for_all_ports_but_some_is_read_as_that() -> None:
    text = "*nat\n-A OUTPUT -p tcp -m tcp ! --dport 22 -j REDIRECT --to-ports 15001\n"
    assert [len(list(parse_iptables(text, port))) for port in (22, 80)] == [0, 1]
    nft = "table ip n {\nchain o {\ntype nat hook output priority 0;\ntcp dport != 22 redirect to :1\n}\n}\n"
    assert [len(list(parse_nft(nft, port))) for port in (22, 80)] == [0, 1]


def test_chains_that_jump_in_a_circle_end() -> None:
    """The kernel refuses them; a listing that somebody wrote by hand may have them."""
    text = "*nat\n-A OUTPUT -j A\n-A A -j B\n-A B -j A\n"
    assert list(parse_iptables(text, 80)) == []
