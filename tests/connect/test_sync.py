"""In the trap, guarded connects never reach themselves; a plain one in the same namespace does."""

from __future__ import annotations

import contextlib
import errno
import socket

import pytest

import tailbite
from support.trap import PORT, leftovers, server_can_bind
from support.ways import WAYS, certain_trap
from tailbite.connect import facts
from tailbite.core.ports import PortRange
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range

MANY = 2_000


def dial(host: str, source: tuple[str, int] | None, times: int) -> int:
    """Connect to the dead port; return how many self-connects were reset."""
    found = 0
    for _ in range(times):
        with pytest.raises(ConnectionRefusedError) as refused:
            tailbite.create_connection((host, PORT), timeout=5, source_address=source)
        assert refused.value.errno == errno.ECONNREFUSED
        found += isinstance(refused.value, tailbite.SelfConnectError)
    return found


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(("host", "source"), WAYS)
def test_thousands_of_connects_to_the_dead_port_never_reach_themselves(
    means: str, host: str, source: tuple[str, int] | None
) -> None:
    with certain_trap(host, source):
        found = dial(host, source, MANY)
        assert found == 0 if means == "steered" else found > MANY / 10


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.usefixtures("network")
def test_the_whole_range_stays_in_use() -> None:
    """Both sub-ranges are used, so no source port but P is given up."""
    write_ephemeral_range(PortRange(PORT - 8, PORT + 4))
    seen = set()
    with socket.create_server(("127.0.0.1", PORT), backlog=64) as server:
        for _ in range(600):
            client = tailbite.create_connection(("127.0.0.1", PORT))
            seen.add(client.getsockname()[1])
            accepted, _ = server.accept()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            accepted.close()
    assert seen == set(range(PORT - 8, PORT + 5)) - {PORT}


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("source", [None, ("127.0.0.1", 0)])
def test_a_full_side_gives_way_to_the_other(source: tuple[str, int] | None) -> None:
    """EADDRNOTAVAIL on one side: every port of the range but P can be used."""
    write_ephemeral_range(PortRange(PORT - 4, PORT + 4))
    clients = []
    with socket.create_server(("127.0.0.1", PORT), backlog=64):
        for _ in range(8):
            clients.append(tailbite.create_connection(("127.0.0.1", PORT), source_address=source))
        assert {client.getsockname()[1] for client in clients} == set(range(PORT - 4, PORT + 5)) - {PORT}
        with pytest.raises(OSError) as full:
            tailbite.create_connection(("127.0.0.1", PORT), source_address=source)
        assert full.value.errno == errno.EADDRNOTAVAIL
    for client in clients:
        client.close()


@pytest.mark.needs("IP_LOCAL_PORT_RANGE")
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("low", [PORT, PORT - 1], ids=["P is the low end", "P is the high end"])
def test_the_edges_of_the_range(low: int) -> None:
    write_ephemeral_range(PortRange(low, low + 1))
    assert dial("127.0.0.1", None, 200) == 0
    assert dial("127.0.0.1", ("127.0.0.1", 0), 200) == 0


@pytest.mark.usefixtures("network", "means")
@pytest.mark.parametrize("source", [None, ("127.0.0.1", 0)])
def test_a_range_of_p_alone_is_an_error_not_a_self_connect(source: tuple[str, int] | None) -> None:
    """The error of a connect without a source port left; "Address already in use" would accuse a server."""
    write_ephemeral_range(PortRange(PORT, PORT))
    for _ in range(10):
        with pytest.raises(OSError) as nothing_left:
            tailbite.create_connection(("127.0.0.1", PORT), source_address=source)
        assert nothing_left.value.errno == errno.EADDRNOTAVAIL
        assert leftovers() == []
    assert server_can_bind()
    with contextlib.closing(socket.socket()) as control:
        control.connect(("127.0.0.1", PORT))
        assert control.getsockname() == control.getpeername()
        abort(control)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    "before",
    [PortRange(40000, 40001), PortRange(PORT + 1, 60000), PortRange(PORT - 100, PORT + 100)],
    ids=["P outside", "P just outside", "P inside: steered"],
)
def test_a_range_that_changes_all_the_time_never_gives_a_self_connect(before: PortRange) -> None:
    """The range is believed for a moment, and may have changed since: then the port itself tells."""
    found = {True: 0, False: 0}
    for number in range(1900):
        is_control = number % 10 == 0
        write_ephemeral_range(before)
        with socket.socket() as sock:
            facts.plan_for(sock, PORT)  # believed from now on
        write_ephemeral_range(PortRange(PORT, PORT + 1))
        try:
            with contextlib.closing(socket.socket()) as plain:
                if is_control:
                    plain.connect(("127.0.0.1", PORT))
                    found[is_control] += tailbite.is_self_connected(plain)
                    abort(plain)
            if not is_control:
                abort(tailbite.create_connection(("127.0.0.1", PORT)))
                found[is_control] += 1
        except ConnectionRefusedError:
            pass
    assert found[False] == 0
    assert found[True] > 0, "the control did not self-connect"
    assert leftovers() == []


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("source", [None, ("127.0.0.1", 0)], ids=["without", "with a source address"])
def test_a_source_address_costs_no_source_ports(source: tuple[str, int] | None, means: str) -> None:
    """Three servers, twenty source ports: sixty connections, with and without a source address."""
    ports = (PORT - 2, PORT, PORT + 2)
    write_ephemeral_range(PortRange(PORT + 10, PORT + 29))
    connected: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=64))
        for _ in range(20):
            for port in ports:
                sock = tailbite.create_connection(("127.0.0.1", port), timeout=5, source_address=source)
                connected.append(stack.enter_context(sock))
        assert len({sock.getsockname() for sock in connected}) == 20
        with pytest.raises(OSError) as full:
            tailbite.create_connection(("127.0.0.1", PORT), source_address=source)
        assert full.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("source", ["127.0.0.1", ""])
def test_an_explicit_source_port_that_is_the_destination_is_refused_before_connecting(source: str) -> None:
    with pytest.raises(tailbite.SourcePortError, match="another source port"):
        tailbite.create_connection(("127.0.0.1", PORT), source_address=(source, PORT))
    assert server_can_bind()


@pytest.mark.usefixtures("network")
def test_the_same_source_port_can_be_asked_for_and_is_then_checked() -> None:
    with pytest.raises(tailbite.SelfConnectError):
        tailbite.create_connection(("127.0.0.1", PORT), source_address=("127.0.0.1", PORT), allow_same_port=True)
    assert server_can_bind()
    with socket.create_server(("127.0.0.1", PORT)):
        sock = tailbite.create_connection(("127.0.0.1", PORT), source_address=("127.0.0.2", PORT))
        assert sock.getsockname() == ("127.0.0.2", PORT)
        sock.close()


@pytest.mark.usefixtures("network")
def test_a_source_address_with_port_0_takes_no_port_from_other_destinations() -> None:
    """The control is bind(2) without IP_BIND_ADDRESS_NO_PORT: a port is taken for every destination."""
    write_ephemeral_range(PortRange(PORT, PORT + 7))
    held = {}
    with contextlib.ExitStack() as up:
        servers = [up.enter_context(socket.create_server(("127.0.0.1", 700 + n), backlog=64)) for n in range(3)]
        for connect in (socket.create_connection, tailbite.create_connection):
            with contextlib.ExitStack() as clients, contextlib.suppress(OSError):
                for number in range(48):
                    held[connect] = number
                    client = connect(servers[number % 3].getsockname(), source_address=("127.0.0.1", 0))
                    clients.callback(abort, client)
    assert held == {socket.create_connection: 8, tailbite.create_connection: 24}
