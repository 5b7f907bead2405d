"""The fast path reads addresses from a file that stays with one memory: exec, vfork, and bad addresses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.guarded import PYTHON, guarded, run, wait_until
from support.programs import client, counts
from support.trap import PORT, Trap
from tailbite.guards.program.fast_path import open_memory
from tailbite.kernel.kcmp import shares_memory

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("network")

# Connects 40 times, executes itself under the same pid, and so on; prints how often it was itself, and refused.
EXECUTES_ITSELF = """
import os, socket, sys
port, left, itself, refused = map(int, sys.argv[1:])
for _ in range(40):
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1" + bytes(7))
        try:
            sock.connect(("127.0.0.1", port))
            itself += sock.getsockname() == sock.getpeername()
        except ConnectionRefusedError:
            refused += 1
if left:
    os.execv(sys.executable, [sys.executable, sys.argv[0], str(port), str(left - 1), str(itself), str(refused)])
print(itself, refused)
"""

# Connects in turn to a good address and to a bad one: unmapped, or beyond what any process has.
BAD_ADDRESSES = """
import ctypes, socket, struct, sys
libc, itself, refused = ctypes.CDLL(None, use_errno=True), 0, 0
libc.connect.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_uint
good = ctypes.create_string_buffer(struct.pack("=HH4s", 2, socket.htons(int(sys.argv[1])), bytes([127, 0, 0, 1])), 28)
for bad in (0, 8, 4096, (1 << 47) - 8, 1 << 63, (1 << 64) - 16, (1 << 64) - 1) * 8:
    for address in (ctypes.addressof(good), bad):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1" + bytes(7))
            if libc.connect(sock.fileno(), address, 16) == 0:
                itself += sock.getsockname() == sock.getpeername()
            else:
                assert ctypes.get_errno() == (111 if address == ctypes.addressof(good) else 14), ctypes.get_errno()
                refused += address != bad
print(itself, refused)
"""


def test_calls_are_received_without_fcntl_as_in_python_3_14() -> None:
    """Python 3.14 repeats an interrupted fcntl.ioctl, so the fast path receives calls in another way there."""
    Trap().set()
    code = (
        "import sys; from tailbite.guards.program import fast_path\n"
        "fast_path._receiver = lambda listener: listener.receive_or_raise\n"
        "from tailbite.cli import main; sys.argv[0] = 'tailbite'; main()"
    )
    done = run([sys.executable, "-c", code, "run", "--require", "--", *client(count=400)])
    assert counts(done.stdout) == (0, 400), done.stderr
    wait_until(Trap().connects_to_itself, "the control connects to itself: the port is held no longer")


def test_a_program_that_executes_another_under_the_same_pid_stays_guarded(tmp_path: Path) -> None:
    Trap().set()
    program = tmp_path / "program.py"
    program.write_text(EXECUTES_ITSELF)
    command = [PYTHON, str(program), str(PORT), "2", "0", "0"]
    assert counts(run(guarded(command, "--require")).stdout) == (0, 120)
    itself, _ = counts(run(command).stdout)
    assert itself > 0, "the control did not self-connect"


@pytest.mark.parametrize("before", [1, 2, 40])
def test_a_child_of_vfork_that_connects_before_and_after_exec_is_guarded(
    compiled: Callable[[str], list[str]], before: int
) -> None:
    Trap().set()
    command = [*compiled("vforks.c"), str(PORT), str(before), *client(count=100)]
    assert counts(run(guarded(command, "--require")).stdout) == (0, 100)
    itself, _ = counts(run(command).stdout)
    assert itself > 0, "the control did not self-connect"


def test_bad_addresses_fail_as_they_do_without_a_guard_and_good_ones_stay_guarded() -> None:
    Trap().set()
    command = [PYTHON, "-c", BAD_ADDRESSES, str(PORT)]
    guarded_run = run(guarded(command, "--require"))
    assert counts(guarded_run.stdout) == (0, 56), guarded_run.stderr
    itself, _ = counts(run(command).stdout)
    assert itself > 0, "the control did not self-connect"


@pytest.mark.needs("KCMP")
def test_memory_that_is_shared_is_not_opened_and_other_memory_is_gone_after_exec() -> None:
    assert shares_memory(os.getpid(), os.getpid())
    code = "import os; os.read(0, 1); os.execvp('cat', ['cat'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        assert not shares_memory(child.pid, os.getpid())
        memory = open_memory(child.pid)
        try:
            with Path(f"/proc/{child.pid}/maps").open("rb") as maps:
                start = int(maps.readline().partition(b"-")[0], 16)
            assert len(os.pread(memory, 4, start)) == 4
            child.stdin.write(b"\nready\n")
            child.stdin.flush()
            assert child.stdout.readline() == b"ready\n"
            assert os.pread(memory, 4, start) == b""
        finally:
            os.close(memory)
