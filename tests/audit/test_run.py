"""Clients that were written to behave in one way each get the verdict they deserve, and leave nothing behind."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from audit.leftovers import nothing_left
from tailbite.audit.client import Client
from tailbite.audit.records import Allocator, Limits
from tailbite.audit.verdict import Belief, Figure, Remains, Verdict, Word
from tailbite.audit.warden import audit

CLIENTS = Path(__file__).with_name("clients.py")
# What ends by an event is given a minute for it: a busy machine may need it. What ends by time is short.
QUICK = Limits(dial=60, watch=0.4, hold=1.6, quick=True, patience=60)
SPEAKS = replace(QUICK, hold=4.0)
EXITS = replace(QUICK, watch=20, hold=20)
FULL = replace(QUICK, quick=False, watch=0.5)
SILENT = replace(QUICK, dial=3.0)


def client(kind: str) -> Client:
    return Client(kind, (sys.executable, str(CLIENTS), kind, "{host}", "{port}"))


def run(kind: str, folder: Path, limits: Limits = QUICK) -> Verdict:
    with nothing_left(folder):
        return audit(client(kind), limits)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("kind", "limits", "word", "believed", "left"),
    [
        ("immune", QUICK, Word.IMMUNE, Belief.NO, None),
        ("aborting", EXITS, Word.ABORTS, Belief.NO, Remains.NOTHING),
        ("flapping", QUICK, Word.ABORTS, Belief.UNKNOWN, None),
        ("blocking", EXITS, Word.BLOCKS, Belief.NO, Remains.TIME_WAIT),
        ("holding", SPEAKS, Word.HOLDS, Belief.YES, Remains.ESTABLISHED),
        ("binding", QUICK, Word.HOLDS, Belief.UNKNOWN, Remains.ESTABLISHED),
        ("quitting", QUICK, Word.UNEXERCISED, Belief.UNKNOWN, None),
        ("silent", SILENT, Word.UNEXERCISED, Belief.UNKNOWN, None),
        ("elsewhere", QUICK, Word.UNEXERCISED, Belief.UNKNOWN, None),
        ("crashing", EXITS, Word.BLOCKS, Belief.UNKNOWN, Remains.TIME_WAIT),
        ("forking", SPEAKS, Word.HOLDS, Belief.YES, Remains.ESTABLISHED),
        ("daemonising", QUICK, Word.HOLDS, Belief.UNKNOWN, Remains.ESTABLISHED),
        ("v6_only", QUICK, Word.HOLDS, Belief.UNKNOWN, Remains.ESTABLISHED),
        ("flooding", QUICK, Word.HOLDS, Belief.UNKNOWN, Remains.ESTABLISHED),
        ("stubborn", SPEAKS, Word.HOLDS, Belief.YES, Remains.ESTABLISHED),
        ("failing_parent", SPEAKS, Word.HOLDS, Belief.YES, Remains.ESTABLISHED),
        ("failing_supervisor", EXITS, Word.BLOCKS, Belief.UNKNOWN, Remains.TIME_WAIT),
        ("failing_pool", EXITS, Word.BLOCKS, Belief.UNKNOWN, Remains.TIME_WAIT),
        ("missing_helper", EXITS, Word.BLOCKS, Belief.NO, Remains.TIME_WAIT),
        ("unable", QUICK, Word.UNSUPPORTED, Belief.UNKNOWN, None),
    ],
)
def test_each_gets_the_verdict_it_deserves(
    kind: str, limits: Limits, word: Word, believed: Belief, left: Remains | None, tmp_path: Path
) -> None:
    verdict = run(kind, tmp_path, limits)
    assert verdict.verdict is word, verdict
    assert verdict.believed is believed, verdict
    if left is not None:
        assert verdict.left is left
    assert verdict.version == ""
    if word is not Word.UNSUPPORTED:
        assert all(seen.control for seen in verdict.observations)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("kind", "word", "left"),
    [("lingering", Word.BLOCKS, Remains.NOTHING), ("lingering_fin", Word.HOLDS, Remains.TIME_WAIT)],
)
def test_a_client_that_keeps_it_for_seconds_is_ranked_by_the_time_a_server_is_down(
    kind: str, word: Word, left: Remains, tmp_path: Path
) -> None:
    verdict = run(kind, tmp_path, replace(QUICK, hold=20))
    assert verdict.verdict is word
    assert verdict.left is left
    assert verdict.longest_hold is not None
    assert verdict.longest_hold >= 2.0


def script(text: str) -> Client:
    return Client("script", (sys.executable, "-c", text, "{host}", "{port}"))


GUARDED_FIRST = """
import contextlib, socket, sys, time, tailbite
host, port = sys.argv[1], int(sys.argv[2])
with contextlib.suppress(OSError):
    tailbite.create_connection((host, port))
while True:
    time.sleep({pause})
    with contextlib.suppress(OSError):
        kept = socket.create_connection((host, port))
        time.sleep(600)
"""


@pytest.mark.usefixtures("network")
def test_a_client_whose_first_connect_is_guarded_and_whose_reconnects_are_not_is_watched_until_it_came_back(
    tmp_path: Path,
) -> None:
    with nothing_left(tmp_path):
        verdict = audit(script(GUARDED_FIRST.format(pause=3)), QUICK)
        assert verdict.verdict is Word.HOLDS
        impatient = audit(script(GUARDED_FIRST.format(pause=600)), replace(QUICK, patience=2))
    assert impatient.verdict is Word.INCONCLUSIVE
    assert "its reconnects were not seen" in impatient.reason
    assert impatient.comebacks == 0


RESETS_FIRST = """
import contextlib, socket, struct, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
time.sleep({pause})
kept = socket.create_connection((sys.argv[1], int(sys.argv[2])))
time.sleep(600)
"""


@pytest.mark.usefixtures("network")
def test_a_client_that_resets_its_first_connection_and_keeps_the_next_is_watched_until_it_came_back(
    tmp_path: Path,
) -> None:
    with nothing_left(tmp_path):
        assert audit(script(RESETS_FIRST.format(pause=4)), QUICK).verdict is Word.HOLDS
        impatient = audit(script(RESETS_FIRST.format(pause=600)), replace(QUICK, patience=2))
    assert impatient.verdict is Word.INCONCLUSIVE
    assert "its reconnects were not seen" in impatient.reason


LISTENING = """
import contextlib, socket, sys, time, tailbite
own = socket.create_server(("127.0.0.1", 0))
connect = {connect}
while True:
    with contextlib.suppress(OSError):
        kept = connect((sys.argv[1], int(sys.argv[2])))
        time.sleep(600)
    time.sleep(0.3)
"""


@pytest.mark.usefixtures("network")
def test_a_client_with_a_listener_of_its_own_is_given_ports_to_show_what_it_does(tmp_path: Path) -> None:
    with nothing_left(tmp_path):
        immune = audit(script(LISTENING.format(connect="tailbite.create_connection")), QUICK)
        assert immune.verdict is Word.IMMUNE, immune
        assert "connect-127.0.0.1-wide" in {seen.phase.name for seen in immune.observations if seen.dials}
        plain = audit(script(LISTENING.format(connect="socket.create_connection")), QUICK)
    assert plain.verdict is Word.HOLDS


LAST_MOMENT = """
import contextlib, pathlib, socket, sys, time
def dial():
    with contextlib.suppress(OSError), socket.create_connection((sys.argv[1], int(sys.argv[2]))) as sock:
        return sock.getsockname() == sock.getpeername()
dial()
low, high = map(int, pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
if high - low == 15:
    time.sleep({pause})
    while not dial():
        pass
time.sleep(600)
"""


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("pause", [0.95, 0.99, 1.0, 1.01])
def test_a_dial_in_the_last_moment_of_a_phase_counts_and_cancels_no_recovery(pause: float, tmp_path: Path) -> None:
    limits = Limits(dial=60, watch=1.0, hold=1.6, patience=1.0, recovery=True)
    with nothing_left(tmp_path):
        verdict = audit(script(LAST_MOMENT.format(pause=pause)), limits)
    assert verdict.verdict is Word.BLOCKS
    assert verdict.troubles == ()
    assert {"connect-::1", "connect-localhost", "connect-127.0.0.1-recovery"} <= {
        seen.phase.name for seen in verdict.observations
    }
    assert verdict.server_down_plain.outcome is Figure.LONGER
    assert all(seen.counted == len(seen.self_connects) for seen in verdict.observations if not seen.recovery)


@pytest.mark.usefixtures("network")
def test_an_immune_client_that_dials_faster_than_it_can_be_watched_is_immune_all_the_same(tmp_path: Path) -> None:
    verdict = run("tight", tmp_path)
    assert verdict.verdict is Word.IMMUNE, verdict.reason
    assert verdict.dials > 100


@pytest.mark.usefixtures("network")
def test_the_whole_audit_covers_both_allocators_and_all_addresses(tmp_path: Path) -> None:
    # It dials fifty times a second, and one dial in eight hits: ten seconds without a hit are out of the question.
    verdict = run("holding", tmp_path, replace(FULL, watch=10))
    phases = {seen.phase.name: seen for seen in verdict.observations}
    assert set(phases) == {
        "connect-127.0.0.1",
        "bind-127.0.0.1",
        "connect-127.0.0.1-16-ports",
        "connect-::1",
        "connect-localhost",
    }
    assert phases["connect-127.0.0.1"].dials == 1
    assert [hit.host for hit in phases["connect-::1"].self_connects] == ["::1"]
    assert phases["connect-::1"].self_connects[0].sent == len("are you there?\n")
    # In sixteen ports it takes some dials: eight are of the right parity.
    assert verdict.dials_to_hit == phases["connect-127.0.0.1-16-ports"].dials


@pytest.mark.usefixtures("network")
def test_one_that_binds_first_is_caught_where_the_other_trap_lets_it_pass(tmp_path: Path) -> None:
    verdict = run("binding", tmp_path)
    connect, bind = verdict.observations
    assert (connect.phase.allocator, bind.phase.allocator) == (Allocator.CONNECT, Allocator.BIND)
    assert connect.dials > 1
    assert not connect.self_connects
    assert bind.dials == 1
    assert len(bind.self_connects) == 1


@pytest.mark.usefixtures("network")
def test_a_flood_of_output_is_counted_and_not_kept(tmp_path: Path) -> None:
    seen, *_ = run("flooding", tmp_path).observations
    assert seen.output.total > 10**6
    assert len(seen.output.head) + len(seen.output.tail) <= 2 * 64 * 1024


@pytest.mark.usefixtures("network")
def test_packets_and_counters_agree_on_the_number_of_self_connects(tmp_path: Path) -> None:
    for kind in ("blocking", "holding", "immune"):
        for seen in run(kind, tmp_path, FULL).observations:
            assert seen.counted == len(seen.self_connects), (kind, seen.phase.name)


@pytest.mark.usefixtures("network")
def test_a_client_that_is_not_there_is_unsupported_and_says_so(tmp_path: Path) -> None:
    with nothing_left(tmp_path):
        verdict = audit(Client("none", ("/no/such/program", "{port}")), QUICK)
    assert verdict.verdict is Word.UNSUPPORTED
    assert verdict.reason == "cannot run /no/such/program: No such file or directory"


@pytest.mark.usefixtures("network")
def test_the_client_sees_its_own_processes_only_and_runs_where_it_was_called(tmp_path: Path) -> None:
    script = "import os; print('pid', os.getpid(), os.readlink('/proc/self'), os.getcwd())"
    with nothing_left(tmp_path):
        verdict = audit(Client("who", (sys.executable, "-c", script, "{port}")), QUICK)
    said = verdict.observations[0].output.text.split()
    assert said[0] == "pid"
    assert said[1] == said[2]
    assert said[3] == os.getcwd()  # noqa: PTH109


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("words", "single"),
    [
        ("exec true", True),
        (f"exec {sys.executable} -c 'import threading; threading.Thread(target=print).start()'", True),
        ("true & wait", False),
        ("/bin/true; exit 1", False),
        ("sleep 600 & exit 1", False),
        ("(sleep 600 &); exit 1", False),
    ],
)
def test_a_client_was_single_only_if_it_started_no_other_process(words: str, single: bool, tmp_path: Path) -> None:
    with nothing_left(tmp_path):
        verdict = audit(Client("x", ("sh", "-c", f"{words} # {{port}}")), QUICK if single else SILENT)
    assert {seen.was_single for seen in verdict.observations} == {single}
