"""Source ports that are used up are found, counted as the kernel counts them, and the failure is the kernel's."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest

from support.guarded import wait_until
from support.holders import close_in_turn
from tailbite.core.ports import PortRange, PortSet
from tailbite.host.explain.exhaustion import exhaustion_findings
from tailbite.host.explain.finding import Confidence, Finding, Severity
from tailbite.host.see.exhaustion import destinations_of
from tailbite.host.see.namespaces import current_namespace
from tailbite.kernel.sysctl import (
    read_ephemeral_range,
    read_reserved_ports,
    write_ephemeral_range,
    write_reserved_ports,
    write_sysctl,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

IP_BIND_ADDRESS_NO_PORT = 24  # include/uapi/linux/in.h
REDIS = 6379
COUNT = 20
ADDRESSES = ("127.0.0.1", "127.0.0.2", "0.0.0.0", "::", "::1", "fe80::1%1")


@pytest.fixture
def server(network: None) -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", REDIS), backlog=64) as listener:
        write_ephemeral_range(PortRange(40000, 40000 + COUNT - 1))
        yield listener


def findings(port: int | None = None, host: str | None = None) -> list[Finding]:
    usage = destinations_of(current_namespace(), read_ephemeral_range(), read_reserved_ports())
    return list(exhaustion_findings(usage, host=host, port=port))


def dial() -> socket.socket | None:
    sock = socket.socket()
    number = sock.connect_ex(("127.0.0.1", REDIS))
    assert number in (0, errno.EADDRNOTAVAIL)
    if number:
        sock.close()
        return None
    return sock


def test_connections_that_use_every_source_port_are_critical_and_connect_fails(server: socket.socket) -> None:
    assert findings() == []
    clients = [dial() for _ in range(COUNT)]
    assert dial() is None
    (finding,) = findings()
    assert (finding.code, finding.severity) == ("TB211", Severity.CRITICAL)
    assert f"{COUNT} of {COUNT} source ports from 127.0.0.1 to 127.0.0.1:{REDIS} are in use" in finding.what
    assert f"{COUNT} in ESTABLISHED" in finding.what
    assert findings(port=REDIS)
    assert findings(port=REDIS + 1) == []
    assert {host for host in ADDRESSES if findings(port=REDIS, host=host)} == {"127.0.0.1", "0.0.0.0", "::"}
    for client in clients:
        assert client is not None
        client.close()


def test_time_wait_is_counted_and_the_kernel_s_second_is_told(server: socket.socket) -> None:
    write_sysctl("tcp_tw_reuse", "0")  # a busy machine may need more than the second for all of them
    for _ in range(COUNT):
        client = dial()
        assert client is not None
        close_in_turn(client, server.accept()[0])
    wait_until(lambda: f"{COUNT} in TIME-WAIT" in findings()[0].what, "every FIN is answered")
    (finding,) = findings()
    assert dial() is None
    assert finding.severity is Severity.CRITICAL
    assert "tcp_tw_reuse=1" in str(finding.remedies)
    write_sysctl("tcp_tw_reuse", "2")  # on loopback they are used again after a second
    (finding,) = findings()
    assert finding.severity is Severity.WARNING
    assert "until a TIME-WAIT is a second old" in finding.why
    assert "tcp_tw_reuse=1" not in str(finding.remedies)
    wait_until(connects, "a port in TIME-WAIT is used again")


def number_of_connect(port: int) -> int:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port))


def connects() -> bool:
    client = dial()
    if client is not None:
        client.close()
    return client is not None


@pytest.mark.needs("BOUND_SOCKETS_LISTED")
def test_sockets_that_are_bound_use_up_the_ports_for_every_destination(server: socket.socket) -> None:
    bound = [socket.socket() for _ in range(COUNT)]
    for sock in bound:
        sock.bind(("127.0.0.1", 0))
    assert dial() is None
    (finding,) = findings(port=REDIS)
    assert f"All {COUNT} source ports are bound" in finding.what
    assert "IP_BIND_ADDRESS_NO_PORT" in str(finding.remedies)
    for sock in bound:
        sock.close()
    assert findings() == []


@pytest.mark.parametrize("without_port", [False, True])
def test_connections_that_were_bound_first_use_up_the_ports_for_every_destination(
    server: socket.socket, without_port: bool
) -> None:
    """The kernel lists both kinds alike, so the finding says what it depends on; the remedy makes the other kind."""
    with socket.create_server(("127.0.0.1", REDIS + 1), backlog=64):
        clients = [socket.socket() for _ in range(COUNT)]
        for number, client in enumerate(clients):
            if without_port:
                client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            write_ephemeral_range(PortRange(40000 + number, 40000 + number))
            client.bind(("127.0.0.1", 0))
            client.connect(("127.0.0.1", REDIS + number % 2))
        write_ephemeral_range(PortRange(40000, 40000 + COUNT - 1))
        other, plain = socket.socket(), socket.socket()
        with pytest.raises(OSError) as error:
            plain.bind(("127.0.0.1", 0))
        assert error.value.errno == errno.EADDRINUSE
        assert other.connect_ex(("127.0.0.1", 1)) == (errno.ECONNREFUSED if without_port else errno.EADDRNOTAVAIL)
        (finding,) = findings()
        for sock in (*clients, other, plain):
            sock.close()
    assert (finding.severity, finding.confidence) == (Severity.WARNING, Confidence.POSSIBLE)
    assert f"{COUNT} of {COUNT} source ports of 127.0.0.1 are in use, to 2 destinations together" in finding.what
    assert "IP_BIND_ADDRESS_NO_PORT" in finding.remedies[0].text


def test_reserved_ports_are_not_available(server: socket.socket) -> None:
    write_reserved_ports(PortSet.parse("40002-40019"))
    first, second = dial(), dial()
    assert dial() is None
    (finding,) = findings()
    assert "2 of 2 source ports" in finding.what
    for client in (first, second):
        assert client is not None
        client.close()


def test_a_remedy_helps_more_ports_let_a_client_connect_again(server: socket.socket) -> None:
    clients = [dial() for _ in range(COUNT)]
    assert dial() is None
    write_ephemeral_range(PortRange(40000, 40000 + 2 * COUNT))
    last = dial()
    assert last is not None
    for client in (*clients, last):
        assert client is not None
        client.close()


def test_a_range_of_reserved_ports_alone_is_said_to_have_none(server: socket.socket) -> None:
    assert findings() == []
    write_reserved_ports(PortSet.parse("40000-40019"))
    assert dial() is None
    (finding,) = findings(REDIS)
    assert (finding.code, finding.severity) == ("TB211", Severity.CRITICAL)
    assert f"all {COUNT} ports are reserved" in finding.what
    assert finding.remedies[0].text.startswith("give the kernel more ports")
    assert list(exhaustion_findings(destinations_of(current_namespace(), None, None))) == []


@pytest.mark.needs("BOUND_SOCKETS_LISTED")
def test_a_port_that_is_bound_and_connected_counts_once(server: socket.socket) -> None:
    write_ephemeral_range(PortRange(40000, 40003))
    bound = [socket.create_server(("127.0.0.77", 40000 + number)) for number in range(4)]
    assert dial() is None
    client = socket.socket()
    client.bind(("127.0.0.1", 0))
    client.connect(("127.0.0.1", REDIS))
    (finding,) = findings(REDIS)
    for sock in (*bound, client):
        sock.close()
    assert (
        f"4 of 4 source ports from 127.0.0.1 to 127.0.0.1:{REDIS} are in use: 1 in ESTABLISHED and 3 " in finding.what
    )
    assert finding.severity is Severity.CRITICAL


def test_servers_in_the_range_are_to_be_moved_and_no_option_of_clients_helps(server: socket.socket) -> None:
    write_ephemeral_range(PortRange(40000, 40003))
    servers = [socket.create_server(("127.0.0.77", 40000 + number)) for number in range(4)]
    assert dial() is None
    (finding,) = findings(REDIS)
    assert "All 4 source ports are bound" in finding.what
    assert "IP_BIND_ADDRESS_NO_PORT" not in str(finding.remedies)
    assert finding.remedies[0].text.startswith("servers that listen on ports of the ephemeral range: move them")
    servers.pop().close()  # the remedy
    client = dial()
    assert client is not None
    for sock in (*servers, client):
        sock.close()


@pytest.mark.needs("BOUND_SOCKETS_LISTED")
@pytest.mark.parametrize("reserved", [None, 40000, 40004])
def test_the_ends_of_a_range_with_an_odd_number_of_ports_may_be_missed(
    server: socket.socket, reserved: int | None
) -> None:
    """connect() rounds the number down: 2 of 3 ports are enough to make it fail."""
    ports = PortSet.parse("40000-40004") - PortSet.of([] if reserved is None else [reserved])
    write_ephemeral_range(PortRange(40000, 40004))
    write_reserved_ports(PortSet() if reserved is None else PortSet.of([reserved]))
    for left in ports:
        bound = [socket.create_server(("127.0.0.77", port)) for port in ports if port != left]
        said = findings(REDIS)
        errors = {number_of_connect(port) for port in range(7000, 7020)}
        for sock in bound:
            sock.close()
        assert len(said) == (left in (40000, 40004))
        assert errors <= {errno.ECONNREFUSED, *([errno.EADDRNOTAVAIL] if said else [])}


def test_the_last_of_three_ports_is_never_found_by_connect(server: socket.socket) -> None:
    write_ephemeral_range(PortRange(40000, 40002))
    clients = [dial(), dial()]
    assert dial() is None
    (finding,) = findings(REDIS)
    assert finding.severity is Severity.WARNING
    assert f"2 of 3 source ports from 127.0.0.1 to 127.0.0.1:{REDIS} are in use" in finding.what
    assert "misses the first of them or the last" in finding.why
    for client in clients:
        assert client is not None
        client.close()
