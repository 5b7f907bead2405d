"""The way back of a file change: exact where nobody touched the file since."""

from __future__ import annotations

import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailbite.core.address import Endpoint, FourTuple
from tailbite.host.change import records
from tailbite.host.change.records import Destroy, FileChange
from tailbite.host.see.abilities import SocketAbilities
from tailbite.host.see.records import Namespace, NamespaceKind
from tailbite.host.see.scan import Sighting
from tailbite.kernel.sock_diag import TcpSocket, TcpState


@given(st.text(), st.text(), st.text())
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_undoing_a_file_change_is_exact_when_nobody_touched_it(before: str, after: str, other: str) -> None:
    change = FileChange("/x", before, after)
    assert change.undone(after) == before
    assert change.undone(before) == before
    assert change.undone(None) in (None, before)
    if other not in (before, after):
        change.undone(other)


@pytest.mark.parametrize(
    ("state", "able", "beginning", "is_possible"),
    [
        (TcpState.ESTABLISHED, SocketAbilities(), "ss -K -t state established src 127.0.0.1:32246", True),
        (TcpState.ESTABLISHED, SocketAbilities(destroy=False), "# this kernel cannot destroy the connection", False),
        (TcpState.TIME_WAIT, SocketAbilities(), "ss -K -t state time-wait src 127.0.0.1:32246", True),
        (TcpState.TIME_WAIT, SocketAbilities(destroy_time_wait=False), "tailbite fix --kill 32246 --apply", True),
        (TcpState.TIME_WAIT, SocketAbilities(False, False), "tailbite fix --kill 32246 --apply", True),
        (TcpState.TIME_WAIT, SocketAbilities(False, False, False), "tailbite fix --kill 32246 --apply", False),
    ],
)
def test_the_command_that_is_shown_is_one_that_this_kernel_can_do(
    state: TcpState, able: SocketAbilities, beginning: str, is_possible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ss -K` prints nothing and ends with 0 where the kernel refuses, so it is not shown there."""
    monkeypatch.setattr(records, "socket_abilities", lambda _: able)
    end = Endpoint("127.0.0.1", 32246)
    sock = TcpSocket(socket.AF_INET, state, FourTuple(end, end), 0, 0, 0, 0, 0, (0, 0))
    here = Namespace(1, NamespaceKind.OWN, "this namespace")
    change = Destroy(Sighting(here, sock, None))
    assert change.command().startswith(beginning)
    assert change.is_possible is is_possible
