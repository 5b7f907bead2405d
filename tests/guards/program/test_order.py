"""Lines for stderr: in one piece, and never in the way of the guarded program."""

from __future__ import annotations

import os
import sys

from support.guarded import run

FULL_PIPE = """
import os, sys, time
read, write = os.pipe()
os.set_blocking(write, False)
try:
    while True: os.write(write, bytes(4096))
except BlockingIOError:
    os.set_blocking(write, True)
os.dup2(write, 2)
from tailbite.guards.program.order import write_line
write_line("nobody reads this")
print("done")
"""
LINES = """
from tailbite.guards.program.order import write_line
write_line("caf\\udce9 and more")
import os; os.close(2)
write_line("lost")
print("done")
"""


def test_a_line_for_a_pipe_that_nobody_reads_is_left_out() -> None:
    """The program waits for its connect meanwhile: it must not wait forever."""
    assert run([sys.executable, "-c", FULL_PIPE], timeout=20).stdout == "done\n"


def test_a_line_that_cannot_be_written_is_lost_and_nothing_else() -> None:
    done = run([sys.executable, "-c", LINES], env={**os.environ, "LC_ALL": "C"})
    assert (done.stdout, done.stderr) == ("done\n", "tailbite: caf? and more\n")
