"""A port is held until the call is known to be over: the evidence, one by one, and real threads."""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import find_peer
from support.guarded import PYTHON, guarded, run, wait_until
from support.limits import without
from support.programs import client, counts
from support.trap import PORT, Trap, server_can_bind
from tailbite.core.ports import PortRange
from tailbite.guards.program import port_hold
from tailbite.guards.program.lookahead import LocalDestination
from tailbite.guards.program.port_hold import Holds, hold
from tailbite.guards.program.shared_page import SharedPage
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT = (42,)
NO_THREAD = 1 << 22
"""The numbers of threads are lower (PID_MAX_LIMIT in include/linux/threads.h)."""

pytestmark = pytest.mark.usefixtures("network")


def is_held() -> bool:
    """Tell whether the port is held: the discard prefix cannot be bound without SO_REUSEADDR then."""
    with socket.socket(socket.AF_INET6) as sock:
        sock.setsockopt(socket.IPPROTO_IP, 15, 1)
        try:
            sock.bind(("100::1", PORT))
        except OSError as error:
            assert error.errno == errno.EADDRINUSE
            return True
        return False


class Call:
    """A call that is over when a test says so."""

    over = False

    def __init__(self, tid: int, numbers: tuple[int, ...]) -> None:
        assert numbers == CONNECT

    def is_over(self) -> bool:
        return self.over


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> type[Call]:
    monkeypatch.setattr(port_hold, "PendingCall", Call)
    monkeypatch.setattr(Call, "over", False)
    return Call


@pytest.fixture
def holds(page: SharedPage) -> Iterator[Holds]:
    holds = Holds(CONNECT, page.slots[0])
    yield holds
    holds.close()


def test_a_port_is_held_until_the_call_is_over(call: type[Call], holds: Holds) -> None:
    holds.hold_during_call(7, PORT)
    assert holds.release_over() is not None
    assert is_held()
    call.over = True
    assert holds.release_over() is None
    assert not is_held()


class Ahead:
    """A lookahead with given answers."""

    def __init__(self) -> None:
        self.is_far = True

    def count_call(self) -> None:
        pass

    def add_delay(self, seconds: float) -> None:
        assert seconds > 0

    def is_out_of_reach(self, destination: LocalDestination, calls: int) -> bool:
        assert (destination.port, calls > 0) == (PORT, True)
        return self.is_far

    is_still_out_of_reach = is_out_of_reach


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> Ahead:
    made_up = Ahead()
    monkeypatch.setattr(port_hold, "Lookahead", lambda: made_up)
    return made_up


HERE = LocalDestination(socket.AF_INET, "127.0.0.1", PORT)


def test_a_port_is_not_held_while_it_is_out_of_reach(ahead: Ahead, call: type[Call], holds: Holds) -> None:
    assert not holds.hold_during_call(7, PORT, destination=HERE)
    assert not is_held()
    assert holds.release_over() is not None, "the call is not over, so it is inspected again"
    assert not is_held()
    call.over = True
    assert holds.release_over() is None


def test_a_port_that_comes_near_while_a_call_is_not_over_is_held_until_it_is(
    ahead: Ahead, call: type[Call], holds: Holds
) -> None:
    holds.hold_during_call(7, PORT, destination=HERE)
    ahead.is_far = False
    assert holds.release_over() is not None
    assert is_held()
    ahead.is_far = True
    assert holds.release_over() is not None
    assert is_held(), "a port that is held stays so until the call is over"
    call.over = True
    assert holds.release_over() is None
    assert not is_held()


def test_a_port_that_is_near_is_held_at_once(ahead: Ahead, call: type[Call], holds: Holds) -> None:
    ahead.is_far = False
    assert holds.hold_during_call(7, PORT, destination=HERE)
    assert is_held()


def test_once_sockets_may_have_ranges_of_their_own_every_port_is_held(
    ahead: Ahead, call: type[Call], holds: Holds
) -> None:
    holds.hold_during_call(7, PORT, destination=HERE)
    holds.hold_always()
    assert is_held(), "also those of calls under way"
    assert holds.hold_during_call(8, PORT, destination=HERE)


def test_what_one_worker_hears_of_own_ranges_holds_for_all(
    ahead: Ahead, call: type[Call], holds: Holds, page: SharedPage
) -> None:
    """The filter reports a call to one worker only, whichever comes first."""
    holds.hold_during_call(7, PORT, destination=HERE)
    Holds(CONNECT, page.slots[1]).hold_always()
    assert holds.release_over() is not None
    assert is_held(), "a call under way"
    assert holds.hold_during_call(8, PORT, destination=HERE), "and the next"


def test_another_call_of_the_same_thread_ends_the_first_hold(call: type[Call], holds: Holds) -> None:
    holds.hold_during_call(7, PORT)
    holds.hold_during_call(7, PORT + 1)
    assert not is_held()
    holds.hold_during_call(7, PORT)
    assert is_held()


def test_a_port_is_held_until_the_last_of_its_calls_is_over(call: type[Call], holds: Holds) -> None:
    holds.hold_during_call(7, PORT)
    holds.hold_during_call(8, PORT)
    holds.hold_during_call(7, PORT + 1)
    assert is_held()
    holds.hold_during_call(8, PORT + 1)
    assert not is_held()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(40000, 40005)), max_size=600))
def test_any_sequence_of_calls_holds_the_last_port_of_each_thread(calls: list[tuple[int, int]]) -> None:
    page = SharedPage()
    before = open_files()
    holds = Holds(CONNECT, page.slots[0])
    last: dict[int, int] = {}
    for tid, port in calls:
        holds.hold_during_call(NO_THREAD + tid, port)
        last[tid] = port
    assert open_files() - before == len(set(last.values()))
    while holds.release_over() is not None:
        pass
    assert open_files() == before
    os.close(page.descriptor)


def test_however_many_threads_are_under_way_the_first_call_is_held_until_it_is_over(
    call: type[Call], holds: Holds
) -> None:
    holds.hold_during_call(1, PORT)
    for tid in range(2, 2000):
        holds.hold_during_call(tid, PORT + 1)
    assert holds.release_over() is not None
    assert is_held()
    call.over = True
    passes = 0
    while holds.release_over() is not None:
        passes += 1
    assert not is_held()
    assert passes > 10, "one pass inspects a few, or each call would wait for all of them"


def test_a_server_has_the_port_so_it_need_not_be_held(page: SharedPage) -> None:
    with socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True):
        with pytest.raises(OSError) as taken:
            hold(PORT).close()
        assert taken.value.errno == errno.EADDRINUSE
        Holds(CONNECT, page.slots[0]).hold_during_call(os.getpid(), PORT)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the emulated limits know x86_64's system calls")
class TestWithoutCopies:
    """Docker's default profile: pidfd_getfd is denied."""

    def test_a_port_in_a_usual_range_is_never_held(self, tmp_path: Path) -> None:
        """So a server on [::] starts as beside a plain client; in a range of two ports each connect has it held.

        The first connect may come before the connects of others have been counted for a moment.
        """
        held = {}
        for ports in (PortRange(32768, 60999), PortRange(PORT, PORT + 1)):
            write_ephemeral_range(ports)
            stats = tmp_path / f"{ports}.json"
            first, more = (shlex.join(client(count=count, port=ports.high - 1)) for count in (1, 100))
            there = ["sh", "-c", f"{first} >&2; sleep 0.2; {more}"]
            command = [*without("pidfd_getfd"), *guarded(there, "--require", "--stats-json", str(stats))]
            assert counts(run(command).stdout) == (0, 100)
            connects = json.loads(stats.read_text())["connects"]
            held[len(ports)] = connects["held"] <= 1, connects["out_of_reach"] >= 100
        assert held == {28232: (True, True), 2: (False, False)}

    @pytest.mark.needs("IP_LOCAL_PORT_RANGE")
    def test_a_program_that_gives_its_sockets_ranges_of_their_own_has_its_ports_held(self) -> None:
        """Their source ports come from a sequence that nobody can inspect: here P alone, where a plain one hits."""
        write_ephemeral_range(PortRange(32768, 60999))
        port = 40000
        code = (
            "import socket; itself = refused = 0\n"
            "for _ in range(100):\n"
            "    sock = socket.socket(); sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\\1' + bytes(7))\n"
            f"    sock.setsockopt(socket.IPPROTO_IP, 51, ({port} | {port} << 16) - (1 << 32))\n"
            f"    is_refused = sock.connect_ex(('127.0.0.1', {port})) != 0\n"
            "    refused += is_refused; itself += not is_refused and sock.getsockname() == sock.getpeername()\n"
            "    sock.close()\n"
            "print(itself, refused)"
        )
        done = run([*without("pidfd_getfd"), *guarded([PYTHON, "-c", code], "--require")])
        assert counts(done.stdout) == (0, 100), done.stderr
        itself, _ = counts(run([PYTHON, "-c", code]).stdout)
        assert itself > 0, "the control did not self-connect"

    def test_a_server_on_every_address_can_start_between_two_connects(self) -> None:
        """Without SO_REUSEADDR, on [::]: the hold ends with the call, not with a clock."""
        Trap().set()
        code = (
            "import socket, sys\n"
            f"for _ in sys.stdin: print(socket.socket().connect_ex(('127.0.0.1', {PORT})), flush=True)"
        )
        with subprocess.Popen(
            [*without("pidfd_getfd"), *guarded([PYTHON, "-c", code], "--require")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as program:
            assert program.stdin is not None and program.stdout is not None
            for _ in range(20):
                program.stdin.write("again\n")
                program.stdin.flush()
                assert program.stdout.readline() == "111\n"
                wait_until(lambda: server_can_bind("::"), "the port is released", pause=0.001)
            program.communicate()

    def test_in_a_namespace_that_the_program_makes_the_port_is_held_there(self) -> None:
        ip, ports = find_peer("ip"), f"{PORT} {PORT + 1}"
        inside = f'{ip} link set lo up; echo "{ports}" > /proc/sys/net/ipv4/ip_local_port_range; exec "$@"'
        there = ["unshare", "-Urn", "sh", "-c", inside, "sh", *client(count=60)]
        done = run([*without("pidfd_getfd"), *guarded(there, "--require")])
        assert counts(done.stdout) == (0, 60), done.stderr
        itself, _ = counts(run(there).stdout)
        assert itself > 0, "the control did not self-connect"
