"""Listeners other than ordinary servers: of the kernel, in flight, inherited, silent; and second servers."""

from __future__ import annotations

import array
import errno
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from conftest import find_peer
from support.guarded import wait_until
from support.holders import KINDS, V6_ONLY, Holder, server_binds
from support.listeners import wait_for_client
from support.own_addresses import wait_for_address
from tailbite.host.explain.finding import Finding, Severity
from tailbite.host.explain.why import explain_port
from tailbite.host.see.namespaces import current_namespace
from tailbite.host.see.port import inspect_port

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("network")
PORT = 33333


def findings(host: str | None = None, port: int = PORT) -> tuple[Finding, ...]:
    (shot,) = inspect_port(port, [current_namespace()])
    return explain_port(shot, (), host).findings


def explain(port: int = PORT, host: str | None = None) -> Finding:
    return findings(host, port)[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="other processes may be closed to this user")
def test_a_listener_in_flight_over_a_unix_socket_has_no_process_and_that_is_said() -> None:
    with socket.create_server(("0.0.0.0", PORT)) as listener:
        here, there = socket.socketpair()
        here.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener.fileno()]))])
    finding = explain()
    here.close()
    there.close()
    assert (finding.code, finding.severity) == ("TB114", Severity.WARNING)
    assert re.search("no process (of this PID namespace )?has it open", finding.what)
    assert "uid" not in finding.what
    assert [line for remedy in finding.remedies for line in remedy.commands][:1] == ["rpcinfo -p"]


@pytest.mark.peers
@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")
def test_an_mptcp_endpoint_is_a_socket_of_the_kernel(peer: Callable[[str], str]) -> None:
    done = subprocess.run(
        [peer("ip"), "mptcp", "endpoint", "add", "127.0.0.1", "id", "7", "signal", "port", str(PORT)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"this kernel has no MPTCP endpoints: {done.stderr}")
    finding = explain()
    assert finding.code == "TB114"
    assert "ip mptcp endpoint show" in str(finding.remedies)


def test_an_inherited_listener_that_does_not_accept_names_the_child_and_how_long_clients_wait() -> None:
    """The server ended; its child keeps the listening socket and knows nothing of it (rinetd#10, mongoose#1302)."""
    code = (
        f"import socket, subprocess\nl = socket.create_server(('0.0.0.0', {PORT}))\nl.set_inheritable(True)\n"
        "child = subprocess.Popen(['sleep', '600'], close_fds=False, stdout=subprocess.DEVNULL, "
        "stderr=subprocess.DEVNULL)\nprint(child.pid)"
    )
    child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    try:
        assert explain().code == "TB106"
        assert f"kill {child}" in str(explain().remedies)
        with socket.create_connection(("127.0.0.1", PORT)), socket.create_connection(("127.0.0.1", PORT)):
            wait_until(lambda: explain().code == "TB115", "the queue is noticed")
            finding = explain()
    finally:
        os.kill(child, signal.SIGKILL)
    assert finding.severity is Severity.WARNING
    assert f"sleep (pid {child}) listens on 0.0.0.0:{PORT} and does not accept: 2 connections wait" in finding.what
    assert f"kill {child}" in str(finding.remedies)


def test_of_several_servers_on_a_port_the_one_that_does_not_accept_is_named() -> None:
    """SO_REUSEPORT: the kernel continues to give a server its share of the connections while it is stopped."""

    def listener() -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", PORT))
        sock.listen(0 if silent else 128)
        return sock

    silent = True
    with listener() as first:
        with socket.create_connection(("127.0.0.1", PORT)):
            wait_for_client(first)
            silent = False
            with listener():
                finding = explain()
        first.close()
    assert finding.code == "TB115"
    assert f"listens on 127.0.0.1:{PORT} and does not accept: 1 connection waits" in finding.what
    assert len(finding.facts) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")
def test_a_listener_that_is_bound_to_a_device_does_not_serve_this_host() -> None:
    """SO_BINDTODEVICE: a DHCP relay, a server of a VRF, or ``ListenStream`` with ``BindToDevice=``."""
    make_device("d0")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"d0")
        sock.bind(("0.0.0.0", PORT))
        sock.listen()
        asked, anywhere = explain(host="127.0.0.1"), explain()
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", PORT)) == errno.ECONNREFUSED
    assert (asked.code, asked.severity) == ("TB107", Severity.WARNING)
    assert (
        f"listens on 0.0.0.0%d0:{PORT}, bound to a device: a client on this host that dials 127.0.0.1:{PORT} is "
        in (asked.what)
    )
    assert (anywhere.code, anywhere.severity) == ("TB107", Severity.NOTICE)


@pytest.mark.needs("BOUND_SOCKETS_LISTED")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")
def test_a_link_local_address_is_asked_about_with_its_interface() -> None:
    """The same address on two devices is two addresses: a server on one is not in the way on the other."""
    indices = [make_device(name) for name in ("d0", "d1")]
    for name in ("d0", "d1"):
        subprocess.run(
            [find_peer("ip"), "-6", "address", "add", "fe80::1/64", "dev", name, "nodad"], check=True, timeout=60
        )
    for index in indices:
        wait_for_address("fe80::1", index)
    with socket.socket(socket.AF_INET6) as one, socket.socket(socket.AF_INET6) as other:
        one.bind(("fe80::1", PORT, 0, indices[0]))
        one.listen()
        assert explain(host=f"fe80::1%{indices[0]}").code == "TB106"
        elsewhere = findings(f"fe80::1%{indices[1]}")
        other.bind(("fe80::1", PORT, 0, indices[1]))
        other.listen()
    assert elsewhere[0].code == "TB107"
    assert f"A server can bind [fe80::1%{indices[1]}]:{PORT}, with and without SO_REUSEADDR." in elsewhere[0].why


def make_device(name: str) -> int:
    """Make one end of a virtual cable, and return its index."""
    ip = find_peer("ip")
    subprocess.run([ip, "link", "add", name, "type", "veth", "peer", "name", f"{name}p"], check=True, timeout=60)
    for each in (name, f"{name}p"):
        subprocess.run([ip, "link", "set", each, "up"], check=True, timeout=60)
    return socket.if_nametoindex(name)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("bound", marks=pytest.mark.needs("BOUND_SOCKETS_LISTED")),
        *("self_chosen", "source_chosen", "accepted"),
    ],
)
def test_any_socket_in_flight_says_that_no_process_has_it_or_why_that_is_not_known(kind: str) -> None:
    sockets = KINDS[kind]("127.0.0.1", 40000, False)
    here, there = socket.socketpair()
    here.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sockets[0].fileno()]))])
    sockets[0].close()
    (shot,) = inspect_port(40000, [current_namespace()])
    finding = explain_port(shot).findings[0]
    carriers = subprocess.run(
        ["sh", "-c", "grep -ls 'scm_fds:[[:space:]]*[1-9]' /proc/[0-9]*/fdinfo/*"], capture_output=True, text=True
    ).stdout
    for sock in (here, there, *sockets[1:]):
        sock.close()
    assert "kill " not in str([line for one in finding.remedies for line in one.commands if line.startswith("kill ")])
    if shot.sees_processes:
        assert re.search(
            "no (visible )?process (of this PID namespace )?has (it )?open", f"{finding.what} {finding.why}"
        )
        assert "scm_fds" in str(finding.remedies)
        assert f"/proc/{os.getpid()}/fdinfo/" in carriers
    else:
        assert "run this command" in str(finding.remedies)


def test_a_server_with_a_full_queue_does_not_accept() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", PORT))
        server.listen(0)
        with socket.create_connection(("127.0.0.1", PORT)):
            wait_for_client(server)
            assert explain().code == "TB115"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_a_second_server_needs_so_reuseport_and_the_same_user() -> None:
    """PowerDNS/pdns#5257: both set SO_REUSEPORT, and still EADDRINUSE, for another user."""

    def reuseport() -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return sock

    with reuseport() as first, reuseport() as same:
        first.bind(("127.0.0.1", PORT))
        first.listen()
        finding = explain()
        same.bind(("127.0.0.1", PORT))
        child = os.fork()
        if child == 0:  # pragma: no cover - it never comes back
            os.setuid(65534)
            os._exit(_bind_number(reuseport()))
        number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert "needs SO_REUSEPORT, on both, and must run as the same user (uid 0)" in finding.why
    assert number == errno.EADDRINUSE


def _bind_number(sock: socket.socket) -> int:
    try:
        sock.bind(("127.0.0.1", PORT))
    except OSError as error:
        return error.errno or 0
    return 0


def test_a_server_is_fine_and_says_what_to_do_if_it_is_not_the_expected_one() -> None:
    with socket.create_server(("127.0.0.1", PORT)):
        finding = explain()
    assert (finding.code, finding.severity) == ("TB106", Severity.FINE)
    assert finding.remedies[0].text.startswith("if it is not the server that you expect: stop ")


@pytest.mark.usefixtures("network")
@pytest.mark.needs("BOUND_SOCKETS_LISTED")
def test_a_server_is_advised_to_bind_more_addresses_only_where_it_can() -> None:
    """Another socket on the address that clients dial, or on a third address, is in the way of a wider bind."""
    with Holder("listening", "127.0.0.1", reuse=False).held(8080):
        assert "127.0.0.2 as well, or 0.0.0.0 or ::" in wider("127.0.0.2")
        with Holder("bound", "127.0.0.3", reuse=False).held(8080):
            assert wider("127.0.0.2").endswith("127.0.0.2 as well")
            assert server_binds("127.0.0.2", 8080, reuse=False)
            assert wider("127.0.0.3").endswith("once nothing else holds it (see below)")
            assert not server_binds("127.0.0.3", 8080, reuse=False)


def wider(host: str) -> str:
    """Return the remedy that has the server bind more, for a client that dials this address."""
    (shot,) = inspect_port(8080, [current_namespace()])
    return explain_port(shot, (), host).findings[0].remedies[1].text


@pytest.mark.usefixtures("network")
def test_a_process_outside_the_pid_namespace_is_not_denied() -> None:
    """In a container that shares the network of its host, the listener is another's, and no process of this one's."""
    with Holder("listening", "127.0.0.1", reuse=False).held(8080):
        (shot,) = inspect_port(8080, [current_namespace()])
    orphaned = replace(shot, uses=tuple(replace(use, owners=()) for use in shot.uses), sees_processes=True)
    (there,) = explain_port(replace(orphaned, in_pid_namespace=True)).findings
    assert "no process of this PID namespace has it open" in there.what
    assert any("outside this container" in remedy.text for remedy in there.remedies)
    (here,) = explain_port(replace(orphaned, in_pid_namespace=False)).findings
    assert "no process has it open" in here.what
    assert "PID namespace" not in here.why


@pytest.mark.usefixtures("network")
def test_of_two_holders_each_is_named_with_its_own_address_and_a_hidden_one_is_not_given_to_the_visible_one() -> None:
    """An ordinary user's server on IPv6 beside root's on IPv4."""
    with (
        Holder("listening", "127.0.0.1", reuse=False).held(8080),
        Holder("listening", V6_ONLY, reuse=False).held(8080),
    ):
        (shot,) = inspect_port(8080, [current_namespace()])
    mine, theirs = sorted(shot.uses, key=lambda use: ":" not in use.socket.endpoints.local.host)
    hidden = replace(theirs, owners=(), socket=replace(theirs.socket, uid=0))
    seen = replace(shot, uses=(replace(mine, socket=replace(mine.socket, uid=1000)), hidden), sees_processes=False)
    (finding,) = explain_port(seen).findings
    assert (
        f"{mine.owners[0]} listens on [::]:8080 and a process that is not visible (uid 0) listens on" in finding.what
    )
    assert "uid 1000 for [::]:8080 and uid 0 for 127.0.0.1:8080" in finding.why
    assert "Several processes" not in finding.why
    assert any("run this command" in remedy.text for remedy in finding.remedies)
