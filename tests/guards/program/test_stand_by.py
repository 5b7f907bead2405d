"""kill -9 of the supervisor above a program: the one that stands by takes its place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from support.guarded import PYTHON, guarded, wait_until
from support.killing import RESTLESS, all_helpers, helpers, kill, state_of
from support.limits import without
from support.trap import PORT, Trap
from tailbite.core.ports import PortRange
from tailbite.kernel.sysctl import write_ephemeral_range

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("network")
KILLS = 5


def replace_supervisor() -> None:
    """Kill the supervisor, and stop the one that takes its place once that has started another one."""
    supervisor, stand_by = all_helpers()
    kill(supervisor)
    wait_until(lambda: set(helpers()) - {supervisor, stand_by}, "another one stands by")
    os.kill(stand_by, signal.SIGSTOP)
    wait_until(lambda: state_of(stand_by) not in "Tt", "it has been continued")


@pytest.mark.parametrize("denied", [(), ("pidfd_getfd",)], ids=["steers", "holds"])
def test_a_stand_by_takes_the_place_of_a_killed_supervisor(tmp_path: Path, denied: tuple[str, ...]) -> None:
    """Again and again, and each one can be stopped: the front continues it."""
    write_ephemeral_range(PortRange(PORT, PORT + 3))
    stats = tmp_path / "stats.json"
    command = guarded([PYTHON, "-c", RESTLESS], "--require", "--stats-json", str(stats))
    with subprocess.Popen(
        [*without(*denied), *command] if denied else command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
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
