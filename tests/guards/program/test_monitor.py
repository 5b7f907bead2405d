"""kill -9 of the guard's helpers at any moment: no connect hangs, none is lost, none is unguarded.

``TAILBITE_STORM=1000`` sets how many helpers are killed; a smaller number always is.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest

from support.guarded import PYTHON, guarded, wait_until
from support.killing import RESTLESS, all_helpers, helpers, kill, started, state_of
from support.trap import PORT, Trap, wait_for_release
from tailbite.core.ports import PortRange
from tailbite.guards.program.monitor import Task, Watch, do_task
from tailbite.kernel.sysctl import write_ephemeral_range

pytestmark = pytest.mark.usefixtures("network")

KILLS = int(os.environ.get("TAILBITE_STORM", "150"))


@pytest.mark.timeout(900)
def test_helpers_killed_at_random_moments_are_replaced_and_nobody_notices() -> None:
    """The worker answers, the monitor watches it; either takes over from the other, with the call in hand."""
    write_ephemeral_range(PortRange(PORT, PORT + 3))  # P is one of four; two threads need two others
    assert any(Trap().connects_to_itself() for _ in range(50)), "the control did not self-connect"
    pick = random.Random(5)
    with started(guarded([PYTHON, "-c", RESTLESS])) as program:
        for _ in range(KILLS):
            there = all_helpers()
            sleep(pick.random() * 0.004)
            kill(pick.choice(there))
        output, _ = program.communicate("stop\n", timeout=60)
    seen, _, hanging = json.loads(output)
    assert set(seen) == {"ECONNREFUSED"}, "every connect was refused, none was lost, none went to itself"
    assert seen["ECONNREFUSED"] > KILLS
    assert hanging == 0
    wait_for_release()
    assert any(Trap().connects_to_itself() for _ in range(50)), "the control did not self-connect"


FOUR_THREADS = RESTLESS.replace("range(2)", "range(4)")
MANY_CPUS = (
    "import os, sys; os.sched_getaffinity = lambda pid: range(8)\n"
    "sys.argv[0] = 'tailbite'; from tailbite.cli import main; main()"
)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="on one CPU calls do not queue up")
@pytest.mark.timeout(300)
def test_where_there_are_more_cpus_more_workers_help_and_are_replaced_as_well() -> None:
    """Calls queue up, so worker 0 asks for others; killed at random, all of them."""
    write_ephemeral_range(PortRange(PORT, PORT + 7))
    assert any(Trap().connects_to_itself() for _ in range(100)), "the control did not self-connect"
    pick = random.Random(7)
    command = [sys.executable, "-c", MANY_CPUS, "run", "--require", "--", PYTHON, "-c", FOUR_THREADS]
    with started(command) as program:
        wait_until(lambda: len(helpers()) >= 3, "more than one worker is there")
        for _ in range(KILLS // 3):
            there = all_helpers()
            sleep(pick.random() * 0.004)
            kill(pick.choice(there))
        output, _ = program.communicate("stop\n", timeout=60)
    seen, _, hanging = json.loads(output)
    assert set(seen) == {"ECONNREFUSED"}, "every connect was refused, none was lost, none went to itself"
    assert hanging == 0
    wait_for_release()


@pytest.mark.parametrize("options", [(), ("--stats-json", "/dev/null")], ids=["beside", "above"])
def test_a_stopped_helper_is_continued(options: tuple[str, ...]) -> None:
    """SIGSTOP of the one that answers: every connect waits for it."""
    with started(guarded([PYTHON, "-c", RESTLESS], *options)) as program:
        there = all_helpers()
        answers = there[0] if options else there[1]  # the supervisor, or the worker that the monitor forked first
        for _ in range(5):
            os.kill(answers, signal.SIGSTOP)
            wait_until(lambda: state_of(answers) not in "Tt", "it has been continued")
        output, _ = program.communicate("stop\n", timeout=60)
    seen, _, hanging = json.loads(output)
    assert set(seen) == {"ECONNREFUSED"}
    assert hanging == 0


def test_after_both_are_killed_in_one_instant_connects_fail_with_enosys_and_none_hangs() -> None:
    with started(guarded([PYTHON, "-c", RESTLESS])) as program:
        all_helpers()
        while there := helpers():  # one that was just started survives the first round
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for helper in there:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(helper, number)
        output, _ = program.communicate("stop\n", timeout=60)
    assert "ENOSYS" in output
    assert json.loads(output)[2] == 0, "no connect hangs"


def test_the_helpers_end_with_the_last_process_they_guard() -> None:
    """A daemon of the program keeps them; once it is gone they are."""
    with started(guarded(["sh", "-c", "exec 3<&0; setsid sh -c 'echo up; read line <&3' & exit 0"])) as program:
        assert program.stdin is not None
        program.wait(30)
        all_helpers()
        program.stdin.close()
        wait_until(lambda: not helpers(), "the helpers are gone")


def test_a_worker_that_ends_while_its_monitor_is_killed_becomes_the_monitor() -> None:
    """Nothing is left for it to do, and yet nobody else might be there to start the others."""
    end, end_of_test = os.pipe()
    news, tell = os.pipe()

    def work(_: int, watch: Watch) -> bool:
        if watch.monitor == first:
            os.kill(first, signal.SIGKILL)
            wait_until(watch.has_ended, "the monitor has been killed")
        else:
            os.write(tell, b"started")
            os.read(end, 1)
        return True

    first = os.fork()
    if first == 0:
        try:
            first = os.getpid()
            os.close(end_of_test)
            os.close(news)
            do_task(Task(work, end))
        finally:
            os._exit(0)
    os.close(tell)
    os.close(end)
    try:
        assert os.read(news, 16) == b"started", "no worker was started, and no helper is left"
    finally:
        os.close(end_of_test)
        os.close(news)
        os.waitpid(first, 0)


def test_holders_of_named_ports_killed_at_random_are_replaced() -> None:
    Trap().set().control()
    pick = random.Random(6)
    with started(guarded(["sh", "-c", "echo up; read line"], "--port", "32246")) as program:
        for _ in range(20):
            kill(pick.choice(all_helpers()))
            Trap().control_fails()
        program.communicate("stop\n", timeout=60)
    wait_until(Trap().connects_to_itself, "the port is let go when the program has ended")


def test_above_the_program_dies_with_the_process_its_caller_knows() -> None:
    with subprocess.Popen(
        guarded(["sh", "-c", "echo $$; exec sleep 1000"], "--stats-json", "/dev/null"),
        stdout=subprocess.PIPE,
        text=True,
    ) as front:
        assert front.stdout is not None
        program = int(front.stdout.readline())
        assert program != front.pid
        front.kill()
    wait_until(lambda: not Path(f"/proc/{program}").exists(), "the program is gone")
    wait_until(lambda: not helpers(), "the helpers are gone")
