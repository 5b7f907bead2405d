"""Reports of others about held ports, built again: what ``why`` says is what was right to say."""

from __future__ import annotations

import contextlib
import re
import socket

import pytest

from support.holders import Holder, server_binds
from tailbite.core.ports import PortRange
from tailbite.host.explain.finding import Finding, Severity
from tailbite.host.explain.why import explain_port
from tailbite.host.see.namespaces import current_namespace
from tailbite.host.see.port import inspect_port
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range

pytestmark = pytest.mark.usefixtures("network")


def explain(port: int, host: str | None = None) -> tuple[Finding, ...]:
    (shot,) = inspect_port(port, [current_namespace()])
    return explain_port(shot, (), host).findings


@pytest.mark.parametrize("asked", ["127.0.0.1", "::1"])
def test_a_source_port_on_another_address_is_not_in_the_way(asked: str) -> None:
    """A tunnel's port is the source port of a connection from another address of the host (EternalTerminal#708)."""
    server = socket.create_server(("127.0.0.1", 443))
    write_ephemeral_range(PortRange(12344, 12345))
    client = socket.create_connection(("127.0.0.1", 443), source_address=("127.0.0.9", 12344))
    write_ephemeral_range(PortRange(12340, 12350))
    first, *others = explain(12344, asked)
    assert server_binds(asked, 12344, reuse=False)
    abort(client)
    server.close()
    assert first.code == "TB109"
    assert [(one.code, one.severity, one.remedies) for one in others] == [("TB103", Severity.NOTICE, ())]
    assert "It is not in the way on " in others[0].what


def test_a_self_connect_on_ipv4_is_not_in_the_way_of_ipv6() -> None:
    with Holder("self_bound", "127.0.0.1", reuse=False).held(7000):
        first, second = explain(7000, "::1")
        assert (first.code, second.code, second.severity) == ("TB110", "TB101", Severity.NOTICE)
        assert server_binds("::1", 7000, reuse=False)


def test_the_time_wait_of_a_client_is_not_blamed_on_a_server() -> None:
    """casper-node#1478: the far end listens here, so the port was a client's source port."""
    with Holder("source_chosen_time_wait", "127.0.0.1", reuse=False).held(50106):
        (finding,) = explain(50106)
    assert finding.code == "TB104"
    assert "A client left it" in finding.why
    assert "let the server set SO_REUSEADDR" not in str(finding.remedies)


def test_a_socket_that_the_kernel_is_closing_is_not_said_to_belong_to_a_hidden_process() -> None:
    with Holder("accepted_fin_wait", "127.0.0.1", reuse=False).held(8080):
        (finding,) = explain(8080)
    assert finding.code == "TB111"
    assert "the kernel, for a program that has closed it" in finding.what
    assert "as root" not in str(finding.remedies)
    assert "wait: the kernel is closing it" in str(finding.remedies)


def test_very_many_connections_are_counted_and_few_are_listed() -> None:
    server = socket.create_server(("127.0.0.1", 8080), backlog=64)
    clients = [socket.create_connection(("127.0.0.1", 8080)) for _ in range(12)]
    accepted = [server.accept()[0] for _ in clients]
    server.close()
    (finding,) = explain(8080)
    for sock in (*clients, *accepted):
        abort(sock)
    assert "12 connections of a server" in finding.what
    assert len(finding.facts) == 6
    assert (finding.facts[-1].name, finding.facts[-1].value) == ("and more", 7)


@pytest.mark.needs("BOUND_SOCKETS_LISTED")
def test_all_addresses_that_are_bound_are_named() -> None:
    with Holder("bound", "127.0.0.1", reuse=False).held(8400), Holder("bound", "::1", reuse=False).held(8400):
        (finding,) = explain(8400)
    assert finding.code == "TB105"
    assert re.search(r"has bound \S+:8400 and \S+:8400 and neither listens nor is", finding.what)


def test_data_that_the_peer_does_not_read_keeps_the_port_longer_than_a_close() -> None:
    """A closed connection with unsent data and a window of 0: 341 s on Linux 6.18."""
    server = socket.create_server(("127.0.0.1", 8080))
    client = socket.create_connection(("127.0.0.1", 8080))
    accepted = server.accept()[0]
    accepted.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            accepted.send(bytes(1 << 20))
    accepted.close()
    server.close()
    (finding,) = explain(8080)
    abort(client)
    waits = [one.text for one in finding.remedies if one.text.startswith("wait")]
    assert waits == ["wait: the kernel sends what is left, for up to six minutes while the peer reads nothing"]


def test_self_connects_on_many_addresses_are_one_finding() -> None:
    with contextlib.ExitStack() as stack:
        for number in range(1, 13):
            stack.enter_context(Holder("self_bound", f"127.0.1.{number}", reuse=False).held(7000))
        (finding,) = explain(7000)
    assert (finding.code, len(finding.owners)) == ("TB101", 1)
    assert re.search(r"is connected to itself on (127\.0\.1\.\d+:7000, ){4}\S+ and 7 more addresses\.", finding.what)
