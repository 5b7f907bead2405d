"""kill -9 of the supervisor above a program: the one that stands by takes its place."""

from __future__ import annotations

import inspect
import json
import os
import signal
import socket
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from support.guarded import PYTHON, guarded, wait_until
from support.killing import RESTLESS, all_helpers, helpers, kill, started, state_of
from support.limits import without
from support.trap import PORT, Trap
from tailbite.core.ports import PortRange
from tailbite.guards.program.stand_by import Succession
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from tailbite.guards.program.shared_page import SharedPage
    from tailbite.guards.program.steerer import Steerer
    from tailbite.kernel.seccomp import Listener

pytestmark = pytest.mark.usefixtures("network")
KILLS = 5


def replace_supervisor() -> None:
    """Kill the supervisor, and stop the one that takes its place once that has started another one."""
    supervisor, stand_by = all_helpers()
    kill(supervisor)
    wait_until(lambda: set(helpers()) - {supervisor, stand_by}, "another one stands by")
    os.kill(stand_by, signal.SIGSTOP)
    wait_until(lambda: state_of(stand_by) not in "Tt", "it has been continued")


@pytest.mark.parametrize(
    "denied",
    [
        pytest.param((), id="steers", marks=pytest.mark.needs("IP_LOCAL_PORT_RANGE")),
        pytest.param(("pidfd_getfd",), id="holds"),
    ],
)
def test_a_stand_by_takes_the_place_of_a_killed_supervisor(tmp_path: Path, denied: tuple[str, ...]) -> None:
    """Again and again, and each one can be stopped: the front continues it."""
    write_ephemeral_range(PortRange(PORT, PORT + 3))
    stats = tmp_path / "stats.json"
    command = guarded([PYTHON, "-c", RESTLESS], "--require", "--stats-json", str(stats))
    with started([*without(*denied), *command] if denied else command) as program:
        supervisor = min(all_helpers())
        for _ in range(3):  # the one that stands by is replaced
            kill(max(all_helpers()))
        assert supervisor in all_helpers()
        for _ in range(KILLS):
            replace_supervisor()
        output, _ = program.communicate("stop\n", timeout=60)
        assert program.returncode == 0
    seen, _, hanging = json.loads(output)
    assert set(seen) == {"ECONNREFUSED"}, "every connect was refused, none was lost, none went to itself"
    assert hanging == 0
    connects = json.loads(stats.read_text())["connects"]
    assert (connects["takeovers"], connects["unseen"]) == (KILLS, 0)
    assert connects["held" if denied else "steered"] > 0
    assert any(Trap().connects_to_itself() for _ in range(50)), "the control did not self-connect"


class Idle:
    """A steerer without calls."""

    report = None

    def release_ports(self) -> None:
        pass


def test_each_generation_has_as_many_frames_as_the_one_before(page: SharedPage) -> None:
    """Otherwise Python's limit of recursion ends the line after some hundred kills."""
    calls, end = socket.socketpair()
    told, announced = os.pipe()

    def announce() -> None:
        os.write(announced, f"{os.getpid()} {len(inspect.stack(0))}\n".encode())

    listener = SimpleNamespace(descriptor=calls.fileno())
    succession = Succession(
        cast("Listener", listener), page, lambda *_: cast("Steerer", Idle()), announce, kept=(announced,)
    )
    if (supervisor := os.fork()) == 0:
        try:
            succession.start_stand_by()
            os.write(announced, b"0 0\n")
            signal.pause()
        finally:
            os._exit(1)
    with os.fdopen(told, encoding="ascii") as lines:
        assert lines.readline() == "0 0\n"
        os.kill(supervisor, signal.SIGKILL)
        os.waitpid(supervisor, 0)
        depths = []
        for _ in range(4):
            pid, depth = map(int, lines.readline().split())
            depths.append(depth)
            wait_until(partial(children_of, pid), "another one stands by")
            os.kill(pid, signal.SIGKILL)
        lines.readline()
        end.close()
    assert len(set(depths)) == 1, depths
    os.close(announced)
    calls.close()


def children_of(pid: int) -> bool:
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())
