"""The host guard's rule: every self-connect refused at once, a genuine connection from the same port passes."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import find_peer
from support.guarded import wait_until
from support.own_addresses import wait_for_address
from support.trap import PORT, Trap, leftovers, server_can_bind
from tailbite.core.ports import PortRange
from tailbite.errors import FirewallError
from tailbite.guards.host import firewall as host_firewall
from tailbite.guards.host.bpf_match import bytecode, self_connect_filter
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailbite.guards.host.bpf_match import IpVersion
    from tailbite.guards.host.firewall import Firewall

HOSTS = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "10.91.0.1", "fd91::1"]
FAKE = host_firewall.Firewall(4, "/sbin/iptables", "/sbin/iptables-save", "nf_tables")


@pytest.fixture(
    params=[
        pytest.param("nft", marks=pytest.mark.needs("XT_BPF_NFT")),
        pytest.param("legacy", marks=pytest.mark.needs("XT_BPF_LEGACY")),
    ]
)
def firewalls(request: pytest.FixtureRequest, network: None, peer: Callable[[str], str]) -> list[Firewall]:
    """Both variants of iptables, with IPv4 and IPv6."""
    peer(f"iptables-{request.param}")
    return [host_firewall.find_firewall(version, request.param) for version in host_firewall.VERSIONS]


def install(firewall: Firewall) -> int:
    commands = host_firewall.install_commands(host_firewall.read_state(firewall), firewall)
    for line in commands:
        host_firewall.run_firewall(line)
    return len(commands)


def remove(firewall: Firewall) -> int:
    commands = host_firewall.remove_commands(host_firewall.read_state(firewall), firewall)
    for line in commands:
        host_firewall.run_firewall(line)
    return len(commands)


def dial(address: str, port: int, source: tuple[str, int] | None = None) -> bool:
    """A plain connect; True if it was answered. Where a packet is dropped, this fails with a TimeoutError."""
    with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)) as sock:
        sock.settimeout(60)
        if source is not None:
            sock.bind(source)
        try:
            sock.connect((address, port))
        except ConnectionRefusedError:
            return False
        abort(sock)
        return True


def add_own_addresses() -> None:
    for line in (
        "link add v0 type veth peer name v1",
        "addr add 10.91.0.1/24 dev v0",
        "addr add fd91::1/64 dev v0 nodad",
        "link set v0 up",
        "link set v1 up",
    ):
        subprocess.run([find_peer("ip"), *line.split()], check=True)
    wait_for_address("fd91::1")


@pytest.mark.peers
def test_every_self_connect_is_refused_at_once_and_counted(firewalls: list[Firewall]) -> None:
    add_own_addresses()
    Trap().set()
    for address in HOSTS:
        Trap().control(address)
    for firewall in firewalls:
        assert install(firewall) == 3
    for address in HOSTS:
        # bind(P) and connect(P) is a self-connect with certainty: here it is refused as well.
        assert not any(dial(address, PORT) for _ in range(200)), address
        assert not dial(address, PORT, ("::" if ":" in address else "0.0.0.0", PORT)), address
    assert leftovers() == []
    assert server_can_bind()
    states = [host_firewall.read_state(firewall) for firewall in firewalls]
    assert all(state.is_installed for state in states)
    assert states[0].packets >= 4
    assert states[1].packets >= 2
    assert states[0].bytes >= 40 * states[0].packets
    for firewall in firewalls:
        assert remove(firewall) == 3
    for address in HOSTS:
        Trap().control(address)


@pytest.mark.peers
def test_a_genuine_connection_from_the_same_port_passes(firewalls: list[Firewall]) -> None:
    for firewall in firewalls:
        install(firewall)
    add_own_addresses()
    for server_host, client_host in (("127.0.0.1", "127.0.0.2"), ("::1", "fd91::1")):
        family = socket.AF_INET6 if ":" in server_host else socket.AF_INET
        with socket.create_server((server_host, PORT), family=family), contextlib.closing(socket.socket(family)) as s:
            s.bind((client_host, PORT))
            s.settimeout(60)
            s.connect((server_host, PORT))
            assert s.getsockname()[:2] == (client_host, PORT)
            abort(s)
    assert [host_firewall.read_state(firewall).packets for firewall in firewalls] == [0, 0]


FROM_OUTSIDE = """
import errno, socket, sys, time
to, own, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
while True:
    with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET) as sock:
        try:
            sock.bind((own, port)); sock.settimeout(60); sock.connect((to, port)); sock.recv(1)
            break
        except OSError as error:  # the address is new, and cannot be used yet
            if error.errno not in (errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EHOSTUNREACH): raise
    time.sleep(0.01)
"""


@pytest.mark.peers
def test_a_connection_from_another_host_between_equal_ports_passes(firewalls: list[Firewall]) -> None:
    """The rule does not compare the interface, so what comes from outside meets its program as well."""
    for firewall in firewalls:
        install(firewall)
    add_own_addresses()
    ip = find_peer("ip")
    servers = [
        socket.create_server((host, PORT), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        for host in ("10.91.0.1", "fd91::1")
    ]
    with subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE) as other, contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        here, there = Path("/proc/thread-self/ns/net").readlink(), Path(f"/proc/{other.pid}/ns/net")
        wait_until(lambda: there.readlink() != here, "the other namespace is there")
        subprocess.run([ip, "link", "set", "v1", "netns", str(other.pid)], check=True)
        enter = ["nsenter", "-t", str(other.pid), "-n"]
        for line in ("addr add 10.91.0.2/24 dev v1", "addr add fd91::2/64 dev v1 nodad", "link set v1 up"):
            subprocess.run([*enter, ip, *line.split()], check=True)
        for server, host in zip(servers, ("10.91.0.2", "fd91::2"), strict=True):
            to = server.getsockname()[0]
            with subprocess.Popen([*enter, sys.executable, "-c", FROM_OUTSIDE, to, host, str(PORT)]) as client:
                server.settimeout(60)
                accepted, peer = server.accept()
                accepted.close()
                assert peer[:2] == (host, PORT)
                assert client.wait(60) == 0
        assert other.stdin is not None
        other.stdin.close()
    assert [host_firewall.read_state(firewall).packets for firewall in firewalls] == [0, 0]


@pytest.mark.peers
def test_every_port_up_to_65535(firewalls: list[Firewall]) -> None:
    """The sweep: each port in turn is the dead one of a range of two; none reaches itself."""
    for firewall in firewalls:
        install(firewall)
    for low in itertools.chain(range(1024, 1400), range(32240, 33000), range(65000, 65535)):
        write_ephemeral_range(PortRange(low, low + 1))
        for port, address in itertools.product((low, low + 1), ("127.0.0.1", "::1")):
            assert not dial(address, port)
    assert all(host_firewall.read_state(firewall).packets > 500 for firewall in firewalls)
    for firewall in firewalls:
        remove(firewall)
    Trap().set().control()


@pytest.mark.peers
def test_installing_again_does_nothing_and_removing_leaves_nothing(firewalls: list[Firewall]) -> None:
    before = [host_firewall.run_firewall((firewall.save, "-t", "filter")).count("-A") for firewall in firewalls]
    for firewall in firewalls:
        assert [install(firewall) > 0, install(firewall), install(firewall)] == [True, 0, 0]
        assert [remove(firewall) > 0, remove(firewall)] == [True, 0]
        assert host_firewall.CHAIN not in host_firewall.run_firewall((firewall.save, "-t", "filter"))
    assert [
        host_firewall.run_firewall((firewall.save, "-t", "filter")).count("-A") for firewall in firewalls
    ] == before


@pytest.mark.peers
def test_what_others_do_to_the_rules_is_seen_and_repaired(firewalls: list[Firewall]) -> None:
    """A flushed chain, a jump taken away, an older rule, and a rule put before ours that lets everything pass."""
    Trap().set()
    firewall = firewalls[0]
    damages = [
        ("-F", host_firewall.CHAIN),
        ("-F", "INPUT"),
        ("-R", host_firewall.CHAIN, "1", "-p", "tcp", "-j", "RETURN"),
        ("-I", "INPUT", "1", "-i", "lo", "-j", "ACCEPT"),
    ]
    for damage in damages:
        install(firewall)
        assert not any(dial("127.0.0.1", PORT) for _ in range(50))
        host_firewall.run_firewall(firewall.command(*damage))
        assert not host_firewall.read_state(firewall).is_installed, damage
        Trap().control()
        assert install(firewall) > 0
        state = host_firewall.read_state(firewall)
        assert state.is_installed
        assert len(state.jumps) == 1
        assert not any(dial("127.0.0.1", PORT) for _ in range(50)), damage
    # What leads in twice is put right as well, and rules of others stay.
    host_firewall.run_firewall(firewall.command("-A", "INPUT", "-p", "tcp", "--syn", "-j", host_firewall.CHAIN))
    assert len(host_firewall.read_state(firewall).jumps) == 2
    assert install(firewall) == 1
    assert len(host_firewall.read_state(firewall).jumps) == 1
    remove(firewall)
    assert host_firewall.run_firewall(firewall.command("-S", "INPUT")).splitlines() == [
        "-P INPUT ACCEPT",
        "-A INPUT -i lo -j ACCEPT",
    ]


@pytest.mark.needs("XT_BPF_NFT")
@pytest.mark.peers
def test_a_table_that_is_switched_off_refuses_nothing(network: None, peer: Callable[[str], str]) -> None:
    """iptables-save shows its rules as before."""
    peer("iptables-nft")
    nft = peer("nft")
    Trap().set()
    firewall = host_firewall.find_firewall(4, "nft")
    install(firewall)
    Trap().control_fails()
    host_firewall.run_firewall((nft, "add table ip filter { flags dormant; }"))
    assert not host_firewall.read_state(firewall).is_installed
    Trap().control()
    host_firewall.run_firewall((nft, "add", "table", *firewall.table))
    assert host_firewall.read_state(firewall).is_installed
    Trap().control_fails()
    remove(firewall)


def saved(*rules: str, chain: bool = True) -> str:
    head = ["*filter", ":INPUT ACCEPT [0:0]", *([f":{host_firewall.CHAIN} - [0:0]"] if chain else [])]
    return "\n".join([*head, *rules, "COMMIT"])


MATCH = f'-m bpf --bytecode "{bytecode(self_connect_filter(4))}"'
RULE = f"-A TAILBITE -p tcp {MATCH} -j REJECT --reject-with tcp-reset"
JUMP = "-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j TAILBITE"


def test_a_table_with_ours_is_read() -> None:
    state = host_firewall.parse_rules(
        saved("[5:300] -A INPUT -p udp -j DROP", f"[9:540] {JUMP}", f"[3:180] {RULE}"), FAKE
    )
    assert state == host_firewall.FirewallState(4, "nf_tables", True, 1, True, (2,), 0, None, 3, 180)
    assert state.is_installed


@pytest.mark.parametrize(
    ("rule", "decides"),
    [
        ("-j ACCEPT", True),
        ("-i lo -j ACCEPT", True),
        ("-i eth0 -j ACCEPT", False),
        ("! -i lo -j DROP", False),
        ("! -i eth0 -j DROP", True),
        ("-p udp -j ACCEPT", False),
        ("! -p udp -j ACCEPT", True),
        ("-p tcp -m tcp --dport 22 -j ACCEPT", True),
        ("-g elsewhere", True),
        ("-p tcp", False),
    ],
)
def test_a_rule_before_ours_counts_only_if_it_may_see_a_syn_on_lo(rule: str, decides: bool) -> None:
    state = host_firewall.parse_rules(saved(f"[0:0] -A INPUT {rule}", f"[0:0] {JUMP}", f"[0:0] {RULE}"), FAKE)
    assert state.ahead == (rule if decides else None)
    assert state.is_installed is not decides
    commands = [" ".join(line[3:5]) for line in host_firewall.install_commands(state, FAKE)]
    assert commands == (["-I INPUT", "-D INPUT"] if decides else [])


@pytest.mark.peers
@pytest.mark.parametrize("index", [0, 1], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(("jump", "rule"), [(("-i", "lo"), ()), ((), ("-i", "lo"))], ids=["0.1", "0.2"])
def test_the_rules_of_an_earlier_version_are_replaced_and_removed(
    firewalls: list[Firewall], index: int, jump: tuple[str, ...], rule: tuple[str, ...]
) -> None:
    """Earlier versions compared the interface: first in INPUT, where every packet pays for it, then in our chain."""
    firewall = firewalls[index]

    def install_earlier() -> None:
        for line in (
            ("-N", host_firewall.CHAIN),
            ("-A", host_firewall.CHAIN, *rule, *firewall.rule),
            ("-I", "INPUT", "1", *jump, "-p", "tcp", "--syn", "-j", host_firewall.CHAIN),
        ):
            host_firewall.run_firewall(firewall.command(*line))

    install_earlier()
    assert not host_firewall.read_state(firewall).is_installed
    install(firewall)
    state = host_firewall.read_state(firewall)
    assert (state.is_installed, len(state.jumps), state.outdated) == (True, 1, 0)
    remove(firewall)
    install_earlier()
    remove(firewall)
    assert host_firewall.run_firewall(firewall.command("-S", "INPUT")).splitlines() == ["-P INPUT ACCEPT"]


def test_an_empty_table_and_ours_half_made() -> None:
    assert host_firewall.parse_rules("", FAKE) == host_firewall.FirewallState(4, "nf_tables")
    flushed = host_firewall.parse_rules(saved(f"[0:0] {JUMP}"), FAKE)
    assert (flushed.has_chain, flushed.is_current, flushed.is_installed) == (True, False, False)
    assert [line[3] for line in host_firewall.install_commands(flushed, FAKE)] == ["-A"]
    earlier = f"-A TAILBITE -i lo -p tcp {MATCH} -j REJECT --reject-with tcp-reset"
    two = host_firewall.parse_rules(saved(f"[0:0] {JUMP}", f"[1:60] {earlier}", f"[0:0] {RULE}"), FAKE)
    assert (two.is_current, two.rules) == (False, 2)
    commands = [" ".join(line[3:6]) for line in host_firewall.install_commands(two, FAKE)]
    assert commands == ["-A TAILBITE -p", "-D TAILBITE 1", "-D TAILBITE 1"], "the new rule is there first"
    assert [line[3] for line in host_firewall.install_commands(host_firewall.FirewallState(4, "x"), FAKE)] == [
        "-N",
        "-A",
        "-I",
    ]
    assert host_firewall.remove_commands(host_firewall.FirewallState(4, "x"), FAKE) == []


@pytest.mark.parametrize("version", host_firewall.VERSIONS)
def test_without_iptables_the_error_says_what_to_install(version: IpVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_firewall, "_SEARCH", "/nowhere")
    with pytest.raises(FirewallError, match=r"is not installed.*apt install iptables") as missing:
        host_firewall.find_firewall(version)
    assert missing.value.status == 127


def test_a_command_that_fails_is_an_error_with_what_it_said() -> None:
    with pytest.raises(FirewallError, match=r"sh: no such rule$") as failed:
        host_firewall.run_firewall(("sh", "-c", "echo '# a remark' >&2; echo 'no such rule' >&2; exit 3"))
    assert (failed.value.status, failed.value.said) == (3, "no such rule")
    with pytest.raises(FirewallError):
        host_firewall.run_firewall(("/nowhere/iptables",))


def test_the_lock_of_the_legacy_variant_is_ours_where_the_hosts_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("XTABLES_LOCKFILE", raising=False)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert host_firewall.firewall_environment()["XTABLES_LOCKFILE"].endswith(".lock")
    monkeypatch.setenv("XTABLES_LOCKFILE", "/tmp/mine")
    assert host_firewall.firewall_environment() == {}
    monkeypatch.setattr(os, "access", lambda *_: True)
    monkeypatch.delenv("XTABLES_LOCKFILE")
    assert host_firewall.firewall_environment() == {}
