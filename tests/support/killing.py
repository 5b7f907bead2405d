"""The helpers of a guarded program, which tests kill and stop, and programs whose helpers those are."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from support.guarded import helpers, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["RESTLESS", "all_helpers", "helpers", "kill", "started", "state_of"]

# Connects until a line comes on stdin, and once more in each thread. Prints what came of it, and how long the slowest
# took.
RESTLESS = """
import collections, errno, json, socket, sys, threading, time
seen, slowest, done = collections.Counter(), 0.0, threading.Event()
def work():
    global slowest
    is_last = False
    while not is_last:
        is_last = done.is_set()
        sock = socket.socket()
        start = time.monotonic()
        number = sock.connect_ex(("127.0.0.1", 32246))
        slowest = max(slowest, time.monotonic() - start)
        seen["itself" if number == 0 else errno.errorcode[number]] += 1
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
        sock.close()
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
print("up", flush=True)
sys.stdin.readline()
done.set()
for thread in threads: thread.join(30)
print(json.dumps([seen, slowest, sum(thread.is_alive() for thread in threads)]))
"""


@contextlib.contextmanager
def started(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a program that says "up" when it runs, and ends when its stdin does; wait for both."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        yield program


def all_helpers() -> list[int]:
    """Wait until at least two are there: a monitor and a worker, and one more worker or two when calls queue up."""
    found: list[int] = []

    def are_there() -> bool:
        found[:] = helpers()
        return len(found) >= 2

    wait_until(are_there, "both helpers are there")
    return found


def kill(helper: int) -> None:
    """Kill one, and see it gone: the others continue, and make a new one."""
    with contextlib.suppress(ProcessLookupError):  # a worker that had nothing left to do
        os.kill(helper, signal.SIGKILL)
    wait_until(lambda: helper not in helpers(), "the one that was killed is gone")


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return "gone"
