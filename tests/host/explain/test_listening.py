"""Listeners other than ordinary servers: of the kernel, in flight, inherited, silent; and second servers."""

from __future__ import annotations

import array
import errno
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.guarded import wait_until
from tailbite.host.explain.finding import Finding, Severity
from tailbite.host.explain.why import explain_port
from tailbite.host.see.namespaces import current_namespace
from tailbite.host.see.port import inspect_port

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("network")
PORT = 33333


def explain(port: int = PORT, host: str | None = None) -> Finding:
    (shot,) = inspect_port(port, [current_namespace()])
    return explain_port(shot, (), host).findings[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="other processes may be closed to this user")
def test_a_listener_in_flight_over_a_unix_socket_has_no_process_and_that_is_said() -> None:
    with socket.create_server(("0.0.0.0", PORT)) as listener:
        here, there = socket.socketpair()
        here.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener.fileno()]))])
    finding = explain()
    here.close()
    there.close()
    assert (finding.code, finding.severity) == ("TB114", Severity.WARNING)
    assert "no process has it open" in finding.what
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
        "child = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=subprocess.DEVNULL, "
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


def test_a_server_with_a_full_queue_does_not_accept() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", PORT))
        server.listen(0)
        with socket.create_connection(("127.0.0.1", PORT)):
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
