"""The plain client of every trap connects to itself where that is certain, and leaves nothing."""

from __future__ import annotations

import socket

import pytest

from support.trap import PORT, Trap, leftovers
from tailbite.testkit.plain_client import connects_to_itself


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("binds_first", [False, True])
def test_it_connects_to_itself_in_the_trap_of_its_allocator_alone(host: str, binds_first: bool) -> None:
    Trap(binds_first=binds_first).set()
    assert connects_to_itself(host, PORT, binds_first=binds_first)
    assert leftovers() == []
    Trap(binds_first=not binds_first).set()
    assert not connects_to_itself(host, PORT, binds_first=binds_first)
    assert leftovers() == []


@pytest.mark.usefixtures("network")
def test_a_server_is_not_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not connects_to_itself("127.0.0.1", server.getsockname()[1])
