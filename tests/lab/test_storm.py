"""The storm, and the limits of TIME-WAIT."""

from __future__ import annotations

import os
import socket

import pytest

from support.old_kernel import refuse_to_destroy
from support.trap import PORT, Trap, server_can_bind
from tailbite.kernel.sysctl import read_sysctl, write_sysctl
from tailbite.lab.storm import StormSettings, _self_connected_socket, run_storm
from tailbite.lab.strategies import STRATEGIES


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("name", "value"),
    [("tcp_tw_reuse_delay", "1"), ("tcp_fin_timeout", "1"), ("tcp_tw_reuse", "1"), ("tcp_rfc1337", "1")],
)
def test_no_sysctl_shortens_time_wait(name: str, value: str) -> None:
    """So a short run must take the rest from the kernel's timer, or really wait."""
    if read_sysctl(name) is None:
        pytest.skip(f"this kernel has no {name}")
    write_sysctl(name, value)
    Trap().set()
    with socket.create_connection(("127.0.0.1", PORT)):
        pass
    left = _self_connected_socket(PORT)
    assert left is not None
    assert 30_000 < left.expires_ms <= 60_000  # of 60 s, on a busy machine some are over; with the setting, 1 s
    assert not server_can_bind(reuse=True)


@pytest.mark.usefixtures("network")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_NET_ADMIN")
def test_a_server_is_helped_where_no_time_wait_can_be_destroyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outage counts as the kernel's timer would make it, a minute, and the next round starts without it."""
    refuse_to_destroy(monkeypatch)
    strategy = next(each for each in STRATEGIES if each.name == "compare and close")
    rounds = run_storm(strategy, StormSettings(clients=4, restarts=2, attempts=400, patience=0.2), lambda _: None)
    assert [(each.helped, each.held_by) for each in rounds] == [(True, "TIME-WAIT")] * 2
    assert all(each.down > 10 for each in rounds)
