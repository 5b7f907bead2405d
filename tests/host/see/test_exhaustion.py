"""Source ports are counted per destination, IPv4 and v4-mapped sockets together; few sockets cost nothing."""

from __future__ import annotations

import socket

import pytest

from tailbite.core.ports import PortRange, PortSet
from tailbite.host.see.exhaustion import destinations_of
from tailbite.host.see.namespaces import current_namespace
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_ephemeral_range

PORT = 6379


@pytest.mark.usefixtures("network")
def test_v4_mapped_sockets_share_the_ports_of_ipv4() -> None:
    ports = PortRange(40000, 40003)
    write_ephemeral_range(ports)
    clients = []
    with socket.create_server(("127.0.0.1", PORT)):
        for host in ("127.0.0.1", "::ffff:127.0.0.1", "127.0.0.1", "::ffff:127.0.0.1"):
            client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            client.connect((host, PORT))
            clients.append(client)
        usage = destinations_of(current_namespace(), ports, PortSet())
        for client in clients:
            abort(client)
    (one,) = usage.destinations
    assert (one.source, str(one.remote), one.used) == ("127.0.0.1", f"127.0.0.1:{PORT}", 4)
    assert (usage.available, usage.most, usage.distinct) == (4, 4, 4)


@pytest.mark.usefixtures("network")
def test_few_sockets_are_not_listed() -> None:
    usage = destinations_of(current_namespace(), PortRange(32768, 60999), PortSet.parse("40000-40009"))
    assert (usage.available, usage.destinations, usage.most) == (28222, (), 0)
    assert destinations_of(current_namespace(), None, None).available == 0
