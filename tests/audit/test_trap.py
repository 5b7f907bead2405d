"""Traps: which a client is run in, and that each is certain for a plain client and leaves the ports it promises."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.limits import without
from tailbite.audit import trap
from tailbite.audit.records import Allocator, ConnectionToItself, Ending, Observation
from tailbite.kernel.sockopt import abort


@given(
    st.lists(st.tuples(st.integers(0, 2), *[st.booleans()] * 4), min_size=11, max_size=11),
    st.booleans(),
    st.booleans(),
)
def test_every_audit_ends_after_at_most_nine_different_traps(
    course: list[tuple[int, bool, bool, bool, bool]], quick: bool, has_ipv6: bool
) -> None:
    done: list[Observation] = []
    while (where := trap.next_phase(done, quick=quick, has_ipv6=has_ipv6)) is not None:
        dials, hit, running, served, crowded = course[len(done)]
        hits = (ConnectionToItself(0, None, Ending.OPEN, where.host, 0),) if hit and dials else ()
        status = None if running else 1
        seen = Observation(where, True, 1.0, dials=dials, self_connects=hits, exit_status=status)
        done.append(replace(seen, served=served, crowded=crowded))
        assert len(done) <= 9
    names = [o.phase.name for o in done]
    assert len(set(names)) == len(names)
    assert names[0] == "connect-127.0.0.1"
    if done[0].dials:
        assert names[1] == "bind-127.0.0.1"
    elif not done[0].crowded and done[0].exit_status is None:
        assert "connect-127.0.0.1-wide" not in names
    else:
        assert names[1] == "connect-127.0.0.1-wide"
    assert has_ipv6 or all(o.phase.host == "127.0.0.1" for o in done)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
@pytest.mark.parametrize("allocator", Allocator)
def test_a_plain_client_connects_to_itself_in_every_narrow_trap(host: str, allocator: Allocator) -> None:
    where = trap.phase(host, allocator)
    trap.pin(where)
    assert trap.control(where)


@pytest.mark.usefixtures("network")
def test_the_wide_trap_is_certain_although_the_client_has_listeners_of_its_own() -> None:
    where = trap.phase("127.0.0.1", Allocator.CONNECT, ports=16, occupied=True)
    trap.pin(where)
    with trap.occupy(where):
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(7)]
        assert where.port not in {listener.getsockname()[1] for listener in listeners}
        for _ in range(50):
            sock = socket.create_connection(("127.0.0.1", where.port))
            assert sock.getsockname() == sock.getpeername()
            abort(sock)
        for listener in listeners:
            listener.close()


@pytest.mark.usefixtures("network")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the emulated limits know x86_64's system calls")
def test_ports_are_occupied_where_sockets_cannot_be_ipv6() -> None:
    """ipv6.disable=1, or a service with RestrictAddressFamilies=AF_INET: Python's has_ipv6 is true all the same."""
    code = (
        "import socket; from tailbite.audit import trap; from tailbite.audit.records import Allocator\n"
        "where = trap.phase('127.0.0.1', Allocator.CONNECT, ports=16, occupied=True); trap.pin(where)\n"
        "with trap.occupy(where): print(trap.has_ipv6(), socket.has_ipv6, trap.control(where))"
    )
    command = [*without("AF_INET6"), sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("False True True\n", "")


def test_a_trap_of_another_size_is_refused() -> None:
    for arguments in ({"ports": 3}, {"ports": 2, "occupied": True}):
        with pytest.raises(ValueError, match="2 ports, or 16"):
            trap.phase("127.0.0.1", Allocator.CONNECT, **arguments)  # type: ignore[arg-type]


def test_a_folder_has_no_colon_in_its_name() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        assert ":" not in trap.phase(host, Allocator.BIND).folder
