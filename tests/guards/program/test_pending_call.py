"""A call is taken to be over only where the kernel or the thread itself shows it: the evidence, one by one."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from support.guarded import PYTHON, wait_until
from tailbite.guards.program import pending_call
from tailbite.guards.program.pending_call import PendingCall, run_time

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READ, CONNECT = (0,), (42,)
BEFORE, AFTER = b"before", b"after!"


class Thread:
    """A thread as /proc and its memory show it, made up; it waits in connect(2)."""

    def __init__(self) -> None:
        self.state, self.ran, self.call = "S", 0, f"{CONNECT[0]} 0x3 0x1 0x10 0x0 0x0 0x0 0x7ffe5000 0x401000"
        self.below = BEFORE
        self.error: OSError | None = None
        self.exists = True

    def read(self, path: str) -> bytes:
        if self.error is not None:
            raise self.error
        answers = {
            "stat": f"7 (a ) b) {self.state} 1 1 1",
            "schedstat": f"{self.ran} 0 1",
            "syscall": self.call,
        }
        return answers[path.rpartition("/")[2]].encode()

    def read_below(self, tid: int, pointer: int) -> bytes:
        return self.below if pointer == 0x7FFE5000 else b""


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> Thread:
    made_up = Thread()
    monkeypatch.setattr(pending_call, "_read", made_up.read)
    monkeypatch.setattr(pending_call, "_read_below", made_up.read_below)
    monkeypatch.setattr(pending_call, "_exists", lambda _: made_up.exists)
    return made_up


@pytest.mark.parametrize(
    ("then", "is_over"),
    [
        ({"state": "R"}, False),
        ({"state": "R", "below": AFTER}, True),
        ({"state": "R", "below": b""}, False),
        ({"state": "R", "ran": 1_000_000_000}, False),
        ({"state": "R", "ran": 21_000_000_000}, True),
        ({"state": "S"}, True),
        ({"state": "T"}, True),
        ({"state": "t"}, True),
        ({"state": "Z"}, True),
        ({"state": "D"}, False),
        ({"state": "D", "below": AFTER}, False),
        ({"state": "D", "call": f"{CONNECT[0]} 0x3 0x7ffe"}, False),
        ({"state": "D", "call": f"{READ[0]} 0x3 0x7ffe"}, True),
        ({"state": "D", "call": "running"}, False),
        ({"error": FileNotFoundError(), "exists": False}, True),
        ({"error": ProcessLookupError(), "exists": False}, True),
        ({"error": FileNotFoundError()}, False),
        ({"error": PermissionError()}, False),
    ],
)
def test_what_shows_that_a_call_is_over(thread: Thread, then: dict[str, object], is_over: bool) -> None:
    call = PendingCall(7, CONNECT)
    for name, value in then.items():
        setattr(thread, name, value)
    assert call.is_over() is is_over


@pytest.mark.parametrize("hidden", ["running", "", f"{CONNECT[0]} 0x3", f"{CONNECT[0]} 0 0 0 0 0 0 - 0"])
def test_without_a_stack_pointer_only_time_on_a_cpu_is_left(thread: Thread, hidden: str) -> None:
    thread.call = hidden
    call = PendingCall(7, CONNECT)
    thread.state, thread.below = "R", AFTER
    assert not call.is_over()
    thread.ran = 21_000_000_000
    assert call.is_over()


@pytest.mark.parametrize("error", [PermissionError(), FileNotFoundError()])
def test_a_thread_that_proc_does_not_show_is_waited_for_until_it_ends(thread: Thread, error: OSError) -> None:
    """No /proc, or one that is mounted with hidepid=2."""
    thread.error = error
    call = PendingCall(7, CONNECT)
    assert not call.is_over()
    thread.exists = False
    assert call.is_over()


def test_threads_are_found_without_proc() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as reader:
        assert pending_call._exists(reader.pid)
    assert not pending_call._exists(reader.pid)


SHALLOW = "import os; os.read(0, 1)\nwhile True: sum(range(100))"
"""After its call it never sleeps and calls functions, as a program does that computes."""


@pytest.fixture
def reader() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits in read(2), and then computes forever."""
    with subprocess.Popen([PYTHON, "-c", SHALLOW], stdin=subprocess.PIPE) as it:
        wait_until(lambda: _call_of(it.pid).startswith(f"{READ[0]} 0x0 "), "it reads")
        yield it
        it.kill()


def _call_of(pid: int) -> str:
    with open(f"/proc/{pid}/syscall", encoding="ascii") as file:  # noqa: PTH123 - a file that changes
        return file.read()


@pytest.mark.needs("PROC_SYSCALL")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of read(2) on x86_64")
class TestRealThreads:
    def test_a_thread_that_computes_after_its_call_is_known_to_have_returned(
        self, reader: subprocess.Popen[bytes]
    ) -> None:
        call = PendingCall(reader.pid, READ)
        assert run_time(reader.pid) is not None
        assert reader.stdin is not None
        reader.stdin.write(b"x")
        reader.stdin.flush()
        wait_until(lambda: _call_of(reader.pid) == "running\n", "it computes")
        wait_until(call.is_over, "its stack has changed", seconds=90)
        ran = run_time(reader.pid)
        assert ran is not None and ran < 20, "the time alone would have shown it"

    @pytest.mark.parametrize("end", [signal.SIGSTOP, signal.SIGKILL])
    def test_a_thread_that_is_stopped_or_ends_is_past_its_call(
        self, reader: subprocess.Popen[bytes], end: signal.Signals
    ) -> None:
        call = PendingCall(reader.pid, CONNECT)
        reader.send_signal(end)
        wait_until(call.is_over, "it has stopped")


@pytest.mark.needs("PROC_SYSCALL")
def test_the_stack_of_a_thread_in_a_call_stays_as_it_is(tmp_path: Path) -> None:
    """A thread that is in the kernel, without a CPU: nothing below its stack pointer changes, however often asked."""
    with subprocess.Popen([PYTHON, "-c", "import os; os.read(0, 1)"], stdin=subprocess.PIPE) as it:
        wait_until(lambda: _call_of(it.pid).startswith(f"{READ[0]} 0x0 "), "it reads")
        call = PendingCall(it.pid, READ)
        assert not any(call._has_returned() for _ in range(1000))
        it.kill()
