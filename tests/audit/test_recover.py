"""Recovery: the time for which a server is kept down, and the client's way back, are measured and not guessed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from audit.leftovers import nothing_left
from tailbite.audit.client import Client
from tailbite.audit.records import Limits, Observation, Recovery
from tailbite.audit.verdict import Word
from tailbite.audit.warden import audit

if TYPE_CHECKING:
    from pathlib import Path

SERVER = (
    "import socket, sys, time; s = socket.create_server((sys.argv[1], int(sys.argv[2]))); "
    "c, _ = s.accept(); time.sleep(600)"
)
# Drops a connection that gives its own bytes back, and dials again: the way it drops is the one thing that differs.
RETRYING = """
import socket, struct, sys, time
while True:
    sock = socket.socket()
    {options}
    try:
        sock.connect((sys.argv[1], int(sys.argv[2])))
        if sock.getsockname() != sock.getpeername():
            time.sleep(600)
        time.sleep({hold})
        {drop}
    except OSError:
        pass
    sock.close()
    time.sleep(0.02)
"""
RESET = "sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))"


def retrying(hold: float, drop: str, options: str = "pass") -> Client:
    script = RETRYING.format(hold=hold, drop=drop, options=options)
    return Client("retrying", (sys.executable, "-c", script, "{host}", "{port}"))


def recovery_of(client: Client, limits: Limits, folder: Path) -> tuple[Word, Recovery, Observation]:
    with nothing_left(folder):
        verdict = audit(client, limits)
    (seen,) = (seen for seen in verdict.observations if seen.recovery)
    assert seen.recovery is not None
    return verdict.verdict, seen.recovery, seen


def limits(patience: float, *, server: tuple[str, ...] | None = None, settle: float = 0.3) -> Limits:
    return Limits(
        dial=60, watch=0.2, hold=1.6, quick=True, recovery=True, patience=patience, settle=settle, server=server
    )


def let_go_after(recovery: Recovery, seen: Observation) -> float:
    """Return when the client let go for the last time before the server started, as the recovery counts."""
    assert recovery.served_after is not None
    ends = [hit.end - recovery.began for hit in seen.self_connects if hit.end is not None]
    return max(end for end in ends if end <= recovery.served_after)


@pytest.mark.usefixtures("network")
def test_one_that_resets_keeps_no_server_down_and_comes_back(tmp_path: Path) -> None:
    word, recovery, _ = recovery_of(retrying(0.01, RESET), limits(30), tmp_path)
    assert word is Word.ABORTS
    # A TIME-WAIT would be longer than the patience.
    assert recovery.plain_after is not None
    assert recovery.recovered_after is not None


@pytest.mark.usefixtures("network")
def test_one_that_only_checks_and_resets_is_back_although_no_poll_meets_its_connection(tmp_path: Path) -> None:
    script = (
        "import contextlib, socket, struct, sys, time\n"
        "while True:\n"
        "    with contextlib.suppress(OSError), socket.create_connection((sys.argv[1], int(sys.argv[2]))) as sock:\n"
        f"        {RESET}\n"
        "    time.sleep(0.2)"
    )
    _, recovery, _ = recovery_of(
        Client("check", (sys.executable, "-c", script, "{host}", "{port}")), limits(30), tmp_path
    )
    assert recovery.served_after is not None
    assert recovery.recovered_after is not None


@pytest.mark.usefixtures("network")
def test_one_that_holds_keeps_it_down_for_as_long_as_it_holds(tmp_path: Path) -> None:
    word, recovery, seen = recovery_of(retrying(3.0, RESET), limits(50, settle=0.5), tmp_path)
    assert word is Word.HOLDS
    assert recovery.plain_after is not None
    assert let_go_after(recovery, seen) <= recovery.plain_after
    assert recovery.recovered_after is not None


@pytest.mark.usefixtures("network")
def test_patience_ends_the_wait_for_one_that_never_lets_go(tmp_path: Path) -> None:
    word, recovery, _ = recovery_of(retrying(600, RESET), limits(1.5), tmp_path)
    assert word is Word.HOLDS
    assert recovery.plain_after is recovery.reuse_after is recovery.served_after is recovery.recovered_after is None
    assert recovery.gave_up_after >= 1.5


@pytest.mark.usefixtures("network")
def test_a_client_that_sets_so_reuseaddr_itself_lets_a_server_in_that_does(tmp_path: Path) -> None:
    options = "sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)"
    _, recovery, _ = recovery_of(retrying(600, RESET, options), limits(6), tmp_path)
    assert recovery.plain_after is None
    assert recovery.reuse_after is not None
    assert recovery.served_after is not None


@pytest.mark.usefixtures("network")
def test_a_real_server_is_started_until_it_serves(tmp_path: Path) -> None:
    server = (sys.executable, "-c", SERVER, "{host}", "{port}")
    _, recovery, seen = recovery_of(retrying(2.0, RESET), limits(50, server=server), tmp_path)
    assert recovery.real_server
    assert recovery.plain_after is None
    assert recovery.served_after is not None
    assert recovery.served_after >= let_go_after(recovery, seen)
    assert recovery.recovered_after is not None
    assert recovery.recovered_after >= recovery.served_after


@pytest.mark.usefixtures("network")
def test_a_client_that_is_gone_is_not_recovered(tmp_path: Path) -> None:
    script = f"import socket, struct, sys; sock = socket.create_connection((sys.argv[1], int(sys.argv[2]))); {RESET}"
    gone = Client("gone", (sys.executable, "-c", script, "{host}", "{port}"))
    _, recovery, seen = recovery_of(gone, limits(60), tmp_path)
    assert recovery.served_after is not None
    assert recovery.recovered_after is None
    assert recovery.gave_up_after < 40  # it does not wait for one that cannot come back
    assert seen.exit_status == 0


@pytest.mark.usefixtures("network")
@pytest.mark.timeout(400)
def test_the_time_wait_of_a_plain_close_keeps_every_server_down_for_a_minute(tmp_path: Path) -> None:
    script = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2]))).close()"
    closing = Client("closing", (sys.executable, "-c", script, "{host}", "{port}"))
    word, recovery, seen = recovery_of(closing, limits(90), tmp_path)
    assert word is Word.BLOCKS
    closed_at = seen.self_connects[0].end
    assert closed_at is not None
    for after in (recovery.plain_after, recovery.reuse_after):
        assert after is not None
        assert recovery.began + after - closed_at > 59
