"""The storm, and the limits of TIME-WAIT."""

from __future__ import annotations

import socket

import pytest

from support.trap import PORT, Trap, server_can_bind
from tailbite.kernel.sysctl import write_sysctl
from tailbite.lab.storm import _self_connected_socket


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("name", "value"),
    [("tcp_tw_reuse_delay", "1"), ("tcp_fin_timeout", "1"), ("tcp_tw_reuse", "1"), ("tcp_rfc1337", "1")],
)
def test_no_sysctl_shortens_time_wait(name: str, value: str) -> None:
    """So a short run must take the rest from the kernel's timer, or really wait."""
    write_sysctl(name, value)
    Trap().set()
    with socket.create_connection(("127.0.0.1", PORT)):
        pass
    left = _self_connected_socket(PORT)
    assert left is not None
    assert 59_000 < left.expires_ms <= 60_000
    assert not server_can_bind(reuse=True)
