"""In the trap, guarded connects never reach themselves; a plain one in the same namespace does."""

from __future__ import annotations

import errno
import socket

import pytest

import tailbite
from support.trap import PORT, Trap, leftovers, server_can_bind
from support.ways import WAYS, certain_trap
from tailbite.connect import facts
from tailbite.core.plan import HostFacts
from tailbite.core.ports import PortRange
from tailbite.kernel.sysctl import write_ephemeral_range

MANY = 10_000


def dial(host: str, source: tuple[str, int] | None, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionRefusedError) as refused:
            tailbite.create_connection((host, PORT), timeout=5, source_address=source)
        assert not isinstance(refused.value, tailbite.SelfConnectError)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(("host", "source"), WAYS)
def test_ten_thousand_connects_to_the_dead_port_never_reach_themselves(
    means: str, host: str, source: tuple[str, int] | None
) -> None:
    with certain_trap(means, host, source):
        dial(host, source, MANY)


@pytest.mark.usefixtures("network")
def test_the_whole_range_stays_in_use() -> None:
    """A side is drawn in proportion to its size, so no source port but P is given up."""
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
    """EADDRNOTAVAIL (connect) or EADDRINUSE (bind) on one side: every port of the range but P can be had.

    The sides are of even size: bind(port 0) never takes the last port of a range of odd size, guarded or not
    (inet_csk_find_open_port rounds the number of ports down to even).
    """
    write_ephemeral_range(PortRange(PORT - 4, PORT + 4))
    clients = []
    with socket.create_server(("127.0.0.1", PORT), backlog=64):
        for _ in range(8):
            clients.append(tailbite.create_connection(("127.0.0.1", PORT), source_address=source))
        assert {client.getsockname()[1] for client in clients} == set(range(PORT - 4, PORT + 5)) - {PORT}
        with pytest.raises(OSError) as full:
            tailbite.create_connection(("127.0.0.1", PORT), source_address=source)
        assert full.value.errno in (errno.EADDRNOTAVAIL, errno.EADDRINUSE)
    for client in clients:
        client.close()


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("low", [PORT, PORT - 1], ids=["P is the low end", "P is the high end"])
def test_the_edges_of_the_range(low: int) -> None:
    write_ephemeral_range(PortRange(low, low + 1))
    dial("127.0.0.1", None, 200)
    dial("127.0.0.1", ("127.0.0.1", 0), 200)


@pytest.mark.usefixtures("network")
def test_a_range_of_p_alone_is_an_error_not_a_self_connect() -> None:
    write_ephemeral_range(PortRange(PORT, PORT))
    with pytest.raises(OSError) as nothing_left:
        tailbite.create_connection(("127.0.0.1", PORT))
    assert nothing_left.value.errno in (errno.EADDRNOTAVAIL, errno.EADDRINUSE)
    assert server_can_bind()


@pytest.mark.usefixtures("network")
def test_a_range_changed_at_run_time_is_noticed() -> None:
    import time

    write_ephemeral_range(PortRange(40000, 50000))
    dial("127.0.0.1", None, 1)
    trap = Trap().set()
    trap.control()
    time.sleep(facts.FRESH_FOR * 1.5)  # what the documentation grants, and no more
    dial("127.0.0.1", None, 500)


@pytest.mark.usefixtures("network")
def test_detection_alone_resets_what_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With prevention off, every attempt is a self-connect, is found, and leaves the port free."""
    from tailbite.connect import attempt
    from tailbite.core.plan import Means, Plan

    monkeypatch.setattr(attempt, "plan_for", lambda sock, port: Plan(Means.CHECK, is_certain=False))
    monkeypatch.setattr(attempt.Attempt, "_bind_and_look", lambda *_: None)
    trap = Trap().set()
    trap.control()
    found = 0
    for _ in range(200):
        try:
            tailbite.create_connection(("127.0.0.1", PORT))
        except tailbite.SelfConnectError as error:
            found += 1
            assert error.errno == errno.ECONNREFUSED
            assert error.local == error.remote == tailbite.Endpoint("127.0.0.1", PORT)
        except ConnectionRefusedError:
            pass
        assert server_can_bind()
    assert found > 100
    assert leftovers() == []


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


def test_the_facts_can_be_none() -> None:
    """Elsewhere than on Linux the range is unknown, and the plan is to bind and look."""
    from tailbite.core.plan import Means, plan

    assert plan(PORT, 0, HostFacts(None, False)).means is Means.BIND
