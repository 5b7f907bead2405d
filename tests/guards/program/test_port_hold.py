"""A port is held until the call is known to be over: the evidence, one by one, and real threads."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
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
from tailbite.guards.program.port_hold import Holds, hold, run_time
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT = 42
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


class Thread:
    """A thread as /proc shows it, made up."""

    def __init__(self, state: str = "R", ran: int = 0, call: str = "running") -> None:
        self.state, self.ran, self.call = state, ran, call
        self.error: OSError | None = None

    def read(self, path: str) -> bytes:
        if self.error is not None:
            raise self.error
        answers = {
            "stat": f"7 (a ) b) {self.state} 1 1 1",
            "schedstat": f"{self.ran} 0 1",
            "syscall": self.call,
        }
        return answers[path.rpartition("/")[2]].encode()


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> Thread:
    made_up = Thread()
    monkeypatch.setattr(port_hold, "_read", made_up.read)
    return made_up


@pytest.fixture
def holds() -> Iterator[Holds]:
    holds = Holds(CONNECT)
    yield holds
    holds.close()


@pytest.mark.parametrize(
    ("then", "is_over"),
    [
        ({"state": "R"}, False),
        ({"state": "R", "ran": 100_000_000}, False),
        ({"state": "R", "ran": 600_000_000}, True),
        ({"state": "S"}, True),
        ({"state": "T"}, True),
        ({"state": "t"}, True),
        ({"state": "Z"}, True),
        ({"state": "D"}, False),
        ({"state": "D", "call": f"{CONNECT} 0x3 0x7ffe"}, False),
        ({"state": "D", "call": "0 0x3 0x7ffe"}, True),
        ({"error": FileNotFoundError()}, True),
        ({"error": ProcessLookupError()}, True),
        ({"error": PermissionError()}, False),
    ],
)
def test_a_port_is_released_when_the_call_is_over(
    thread: Thread, holds: Holds, then: dict[str, object], is_over: bool
) -> None:
    holds.hold_during_call(7, PORT)
    assert is_held()
    for name, value in then.items():
        setattr(thread, name, value)
    pause = holds.release_over()
    assert (pause is None, not is_held()) == (is_over, is_over)


class Ahead:
    """A lookahead that answers what it is told to."""

    def __init__(self) -> None:
        self.is_far = True

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


def test_a_port_is_not_held_while_it_is_out_of_reach(ahead: Ahead, thread: Thread, holds: Holds) -> None:
    assert not holds.hold_during_call(7, PORT, destination=HERE)
    assert not is_held()
    assert holds.release_over() is not None, "the call is not over, so it is inspected again"
    assert not is_held()
    thread.state = "S"
    assert holds.release_over() is None


def test_a_port_that_comes_near_while_a_call_is_not_over_is_held_until_it_is(
    ahead: Ahead, thread: Thread, holds: Holds
) -> None:
    holds.hold_during_call(7, PORT, destination=HERE)
    ahead.is_far = False
    assert holds.release_over() is not None
    assert is_held()
    ahead.is_far = True
    assert holds.release_over() is not None
    assert is_held(), "a port that is held stays so until the call is over"
    thread.state = "S"
    assert holds.release_over() is None
    assert not is_held()


def test_a_port_that_is_near_is_held_at_once(ahead: Ahead, thread: Thread, holds: Holds) -> None:
    ahead.is_far = False
    assert holds.hold_during_call(7, PORT, destination=HERE)
    assert is_held()


def test_once_sockets_may_have_ranges_of_their_own_every_port_is_held(
    ahead: Ahead, thread: Thread, holds: Holds
) -> None:
    holds.hold_during_call(7, PORT, destination=HERE)
    holds.hold_always()
    assert is_held(), "also those of calls under way"
    assert holds.hold_during_call(8, PORT, destination=HERE)


def test_another_call_of_the_same_thread_ends_the_first_hold(thread: Thread, holds: Holds) -> None:
    holds.hold_during_call(7, PORT)
    holds.hold_during_call(7, PORT + 1)
    assert not is_held()
    holds.hold_during_call(7, PORT)
    assert is_held()


def test_a_port_is_held_until_the_last_of_its_calls_is_over(thread: Thread, holds: Holds) -> None:
    holds.hold_during_call(7, PORT)
    holds.hold_during_call(8, PORT)
    holds.hold_during_call(7, PORT + 1)
    assert is_held()
    holds.hold_during_call(8, PORT + 1)
    assert not is_held()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(40000, 40005)), max_size=600))
def test_any_sequence_of_calls_holds_the_last_port_of_each_of_the_last_threads(calls: list[tuple[int, int]]) -> None:
    before = open_files()
    holds = Holds(CONNECT)
    last: dict[int, int] = {}
    for tid, port in calls:
        holds.hold_during_call(
            -tid, port
        )  # no such thread: nothing can be read, and nothing is looked up in this test
        last.pop(tid, None)
        last[tid] = port
    expected = len(set(list(last.values())[-256:]))
    assert open_files() - before == expected
    assert holds.release_over() is None
    assert open_files() == before


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    """A process that never sleeps."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as it:
        assert it.stdout is not None
        it.stdout.readline()
        yield it
        it.kill()


def test_a_real_thread_that_computes_is_known_to_be_past_its_call_after_a_while(
    busy: subprocess.Popen[bytes], holds: Holds
) -> None:
    assert run_time(busy.pid) is not None
    holds.hold_during_call(busy.pid, PORT)
    assert is_held()
    wait_until(lambda: holds.release_over() is None, "it has run for half a second", seconds=90)
    assert not is_held()


@pytest.mark.parametrize("end", [signal.SIGSTOP, signal.SIGKILL])
def test_a_real_thread_that_is_stopped_or_ends_is_known_to_be_past_its_call(
    busy: subprocess.Popen[bytes], holds: Holds, end: signal.Signals
) -> None:
    holds.hold_during_call(busy.pid, PORT)
    busy.send_signal(end)
    wait_until(lambda: holds.release_over() is None, "it has stopped")
    assert not is_held()


def test_a_server_has_the_port_so_it_need_not_be_held() -> None:
    with socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True):
        with pytest.raises(OSError) as taken:
            hold(PORT).close()
        assert taken.value.errno == errno.EADDRINUSE
        Holds(CONNECT).hold_during_call(os.getpid(), PORT)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the emulated limits know x86_64's system calls")
class TestWithoutCopies:
    """Docker's default profile: pidfd_getfd is denied."""

    def test_a_client_that_hardly_gets_a_cpu_never_reaches_itself(self) -> None:
        """Lowest priority beside two processes that never sleep: the call may run long after it was let go on."""
        Trap().set()
        hogs = [subprocess.Popen([PYTHON, "-c", "while True: pass"]) for _ in range(2)]
        try:
            done = run([*without("pidfd_getfd"), *guarded(["nice", "-n", "19", *client(count=60)])], timeout=100)
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
        assert counts(done.stdout) == (0, 60), done.stderr
        itself, _ = counts(run(client()).stdout)
        assert itself > 0, "the control did not self-connect"

    def test_a_port_in_a_usual_range_is_never_held(self, tmp_path: Path) -> None:
        """So a server on [::] starts as beside a plain client; in a range of two ports each connect has it held."""
        held = {}
        for ports in (PortRange(32768, 60999), PortRange(PORT, PORT + 1)):
            write_ephemeral_range(ports)
            stats = tmp_path / f"{ports}.json"
            there = client(count=100, port=ports.high - 1)
            command = [*without("pidfd_getfd"), *guarded(there, "--require", "--stats-json", str(stats))]
            assert counts(run(command).stdout) == (0, 100)
            connects = json.loads(stats.read_text())["connects"]
            held[len(ports)] = connects["held"], connects["out_of_reach"]
        assert held == {28232: (0, 100), 2: (100, 0)}

    def test_a_program_that_gives_its_sockets_ranges_of_their_own_has_its_ports_held(self) -> None:
        """Their source ports come from a sequence that nobody can look into: here P alone, where a plain one hits."""
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
