"""Destruction of a TIME-WAIT: on kernels that cannot, and of one that came after the inspection."""

from __future__ import annotations

import os
import socket

import pytest

from support.old_kernel import refuse_to_destroy
from support.trap import server_can_bind, wait_for_time_wait
from tailbite.host.see import namespaces
from tailbite.host.see.scan import destroy_self_connects, scan


@pytest.mark.usefixtures("network")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")
def test_where_the_kernel_cannot_destroy_a_time_wait_it_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux 5.10 answers; the port is blocked before and free afterwards."""
    refuse_to_destroy(monkeypatch)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 7000))
        sock.connect(("127.0.0.1", 7000))
    assert not server_can_bind(port=7000, reuse=True)
    (done,) = destroy_self_connects(scan([namespaces.current_namespace()]).sightings)
    assert done.refused is None
    assert server_can_bind(port=7000)


@pytest.mark.needs("SOCK_DESTROY_TIME_WAIT")
@pytest.mark.usefixtures("network")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")
def test_a_client_that_closes_after_the_inspection_does_not_keep_the_port() -> None:
    """The TIME-WAIT that the close leaves has the cookie of the connection."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 7000))
        sock.connect(("127.0.0.1", 7000))
        sightings = scan([namespaces.current_namespace()]).sightings
    wait_for_time_wait(7000)
    assert not server_can_bind(port=7000, reuse=True)
    (done,) = destroy_self_connects(sightings)
    assert done.refused is None
    assert server_can_bind(port=7000)
