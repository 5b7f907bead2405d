"""Helpers are not noticed: in any state that the caller leaves behind, and in any order of waiting."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from support.guarded import PYTHON, guarded, run, wait_until
from support.programs import client, counts
from support.trap import PORT, Trap

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("network")

ABOVE = ("--stats-json", "/dev/null")
PLACES = pytest.mark.parametrize("options", [(), ABOVE, ("--port", str(PORT))], ids=["beside", "above", "named port"])

# Starts two children, waits until all have ended, and prints how many there were.
WAITS_FOR_ALL = """
import os
for _ in range(2): os.spawnlp(os.P_NOWAIT, "true", "true")
ended = 0
try:
    while os.wait(): ended += 1
except ChildProcessError:
    print(ended)
"""


@pytest.mark.parametrize("options", [("-v",), ("-v", *ABOVE), ("-v", "--port", str(PORT))], ids=" ".join)
def test_a_parent_that_reads_its_pipes_to_the_end_does_not_wait_for_the_helpers(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    """Not even while a daemon of the program, which is guarded still, lives on: the program itself has ended."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    line = f"setsid sh -c 'read line' <{fifo} >/dev/null 2>&1 & echo out"
    keep_open = os.open(fifo, os.O_RDWR)
    try:
        done = subprocess.run(guarded(["sh", "-c", line], *options), capture_output=True, text=True, timeout=20)
    finally:
        os.close(keep_open)
    assert done.stdout == "out\n"
    assert done.stderr.startswith("tailbite: ")


@PLACES
def test_a_caller_that_ignores_sigchld_gets_a_guarded_program_that_ignores_it_too(options: tuple[str, ...]) -> None:
    """The kernel then reaps every child, and waitpid(2) fails with ECHILD."""
    Trap().set()
    line = 'trap "" CHLD; "$@"; echo status $?'
    show = "import signal; print(signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN)\n"
    code = show + client()[2]
    command = guarded([PYTHON, "-c", code, *client()[3:]], "--require", *options)
    done = run(["bash", "-c", line, "bash", *command], timeout=30)
    ignores, connects, status = done.stdout.splitlines()
    assert (ignores, counts(connects), status) == ("True", (0, 200), "status 0"), done.stderr
    wait_until(Trap().connects_to_itself, "the control has connected to itself, as the holder of the port has ended")


@pytest.mark.parametrize("ignored", ["PIPE", "XFSZ", "CHLD", "USR1", "INT"])
@PLACES
def test_an_ignored_signal_stays_ignored(ignored: str, options: tuple[str, ...]) -> None:
    grep = ["grep", "SigIgn", "/proc/self/status"]
    line = f'trap "" {ignored}; "$@"; :'
    plain = run(["bash", "-c", line, "bash", *grep]).stdout
    assert run(["bash", "-c", line, "bash", *guarded(grep, *options)]).stdout == plain


def test_a_blocked_signal_stays_blocked() -> None:
    grep = ["grep", "SigBlk", "/proc/self/status"]
    code = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGUSR1});"
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    plain = run([PYTHON, "-c", code, *grep]).stdout
    for options in ((), ABOVE):
        assert run([PYTHON, "-c", code, *guarded(grep, *options)]).stdout == plain


@PLACES
def test_as_process_1_a_program_that_waits_for_all_its_children_ends(
    options: tuple[str, ...], peer: Callable[[str], str]
) -> None:
    """The entry point of a container: orphans would become its children."""
    inside = [peer("unshare"), "--pid", "--fork", "--kill-child", "--mount-proc"]
    plain = run([*inside, PYTHON, "-c", WAITS_FOR_ALL], timeout=30)
    if plain.returncode != 0:
        pytest.skip(f"no pid namespace can be made here: {plain.stderr}")
    done = run([*inside, *guarded([PYTHON, "-c", WAITS_FOR_ALL], "--require", *options)], timeout=30)
    assert (done.returncode, done.stdout) == (0, plain.stdout), done.stderr
    assert plain.stdout == "2\n"


def test_as_process_1_the_program_is_guarded(peer: Callable[[str], str]) -> None:
    Trap().set()
    inside = [peer("unshare"), "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = run([*inside, *guarded(client(), "--require")], timeout=30)
    assert counts(done.stdout) == (0, 200), done.stderr
    itself, _ = counts(run(client()).stdout)
    assert itself > 0, "the control did not self-connect"


@PLACES
def test_a_program_that_is_a_subreaper_finds_no_child_it_did_not_start(options: tuple[str, ...]) -> None:
    """PR_SET_CHILD_SUBREAPER is kept across execve(2)."""
    code = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execvp(sys.argv[1], sys.argv[1:])"
    done = run([PYTHON, "-c", code, *guarded([PYTHON, "-c", WAITS_FOR_ALL], "--require", *options)], timeout=30)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&-", "0<&- 2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize("options", [(), ("-v",), ABOVE, ("-v", "--port", str(PORT))], ids=" ".join)
def test_closed_standard_descriptors_stay_closed(closed: str, options: tuple[str, ...], tmp_path: Path) -> None:
    Trap().set()
    code = (
        "import os, sys\n"
        "open_ones = [d for d in range(3) if os.path.exists(f'/proc/self/fd/{d}')]\n"
        "import socket; s = socket.socket(); e = s.connect_ex(('127.0.0.1', 32246))\n"
        "open(sys.argv[1], 'w').write(f'{open_ones} {e}')\n"
    )
    found = tmp_path / "found"
    line = f'exec {closed}; exec "$@"'
    run(["sh", "-c", line, "sh", *guarded([PYTHON, "-c", code, str(found)], "--require", *options)])
    open_ones = [number for number in range(3) if str(number) not in (word[0] for word in closed.split())]
    # What -v writes is lost, but neither the helpers' descriptors nor the guard.
    assert found.read_text() == f"{open_ones} 111"


def test_statistics_for_a_closed_standard_output_are_refused_before_anything_runs() -> None:
    command = guarded(["touch", "never"], "--stats-json", "-")
    done = run(["sh", "-c", 'exec "$@" >&-', "sh", *command])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_the_timer_of_a_caller_still_ends_the_program() -> None:
    """alarm(2) and execve(2), as in `perl -e 'alarm 5; exec @ARGV'`."""
    code = "import os, signal, sys; signal.setitimer(signal.ITIMER_REAL, 1); os.execvp(sys.argv[1], sys.argv[1:])"
    for options in ((), ABOVE):
        done = run([PYTHON, "-c", code, *guarded(["sleep", "50"], *options)], timeout=30)
        assert done.returncode == -signal.SIGALRM


@pytest.mark.parametrize("options", [(), ("--port", str(PORT))], ids=["beside", "named port"])
def test_a_helper_that_is_killed_while_it_starts_is_called_so(options: tuple[str, ...]) -> None:
    code = (
        "import os, sys; from tailbite.guards.program import helpers\n"
        "helpers.detach = lambda *_: os._exit(0)\n"
        "import tailbite.guards.program.enter as enter, tailbite.guards.program.named_ports as named\n"
        "enter.detach = named.detach = helpers.detach\n"
        "sys.argv[0] = 'tailbite'; from tailbite.cli import main; main()\n"
    )
    import sys

    done = run([sys.executable, "-c", code, "run", *options, "--", "echo", "out"])
    assert done.stdout == "out\n"
    assert "runs without a guard: its guard was ended from outside while it started" in done.stderr
