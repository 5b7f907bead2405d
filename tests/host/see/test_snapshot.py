"""A snapshot holds what the kernel says of a namespace, and says what it could not see."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from support.abilities import has_ability
from support.trap import PORT, Trap, wait_for_time_wait
from tailbite.core.ports import PortRange, PortSet
from tailbite.host.see.records import Namespace, NamespaceKind
from tailbite.host.see.snapshot import take_snapshot
from tailbite.kernel.sock_diag import TcpState
from tailbite.kernel.sockopt import abort
from tailbite.kernel.sysctl import write_reserved_ports

OWN = Namespace(0, NamespaceKind.OWN, "")


@pytest.mark.usefixtures("network")
def test_it_holds_range_reserved_listeners_bound_and_self_connects() -> None:
    Trap().set()
    write_reserved_ports(PortSet.parse("1000,2000-2002"))
    held, left = (socket.socket() for _ in range(2))
    held.bind(("127.0.0.1", 7000))
    held.connect(("127.0.0.1", 7000))
    left.bind(("127.0.0.1", 7001))
    left.connect(("127.0.0.1", 7001))
    left.close()
    wait_for_time_wait(7001)
    with socket.create_server(("127.0.0.1", 7002)), socket.socket() as bound:
        bound.bind(("127.0.0.1", 7003))
        shot = take_snapshot(OWN)
    abort(held)
    assert shot.ephemeral == PortRange(PORT, PORT + 1)
    assert str(shot.reserved) == "1000,2000-2002"
    assert [found.endpoints.local.port for found in shot.listeners] == [7002]
    assert [found.endpoints.local.port for found in shot.bound] == [7003] * has_ability("BOUND_SOCKETS_LISTED")
    assert [found.endpoints.local.port for found in shot.held] == [7000]
    assert [(found.endpoints.local.port, found.state) for found in shot.time_waits] == [(7001, TcpState.TIME_WAIT)]
    assert shot.sysctl("tcp_tw_reuse") in {"0", "1", "2"}
    assert shot.sysctl("no_such_setting") is None
    assert shot.not_visible == ()


def test_a_namespace_that_is_gone_is_a_record_not_an_error() -> None:
    shot = take_snapshot(Namespace(1, NamespaceKind.NAMED, "gone", path="/run/netns/there-is-no-such-namespace"))
    assert (shot.listeners, shot.ephemeral) == ((), None)
    (not_visible,) = shot.not_visible
    assert "vanished" in str(not_visible)
    assert "namespace gone" in str(not_visible)


@pytest.mark.usefixtures("network")
def test_it_looks_into_another_namespace_and_comes_back() -> None:
    before = Path("/proc/thread-self/ns/net").stat().st_ino
    shot = take_snapshot(Namespace(0, NamespaceKind.PROCESS, "init", path="/proc/self/ns/net"))
    assert shot.not_visible == ()
    assert Path("/proc/thread-self/ns/net").stat().st_ino == before


def test_a_path_that_leads_to_another_namespace_by_now_is_a_record_too() -> None:
    shot = take_snapshot(Namespace(1, NamespaceKind.PROCESS, "reused", path="/proc/self/ns/net"))
    assert ["vanished" in str(not_visible) for not_visible in shot.not_visible] == [True]
