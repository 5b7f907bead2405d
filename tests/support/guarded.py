"""Running programs under ``tailbite run``, as root and as another user, in the calling thread's namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pytest

from support.users import NOBODY, python_as_nobody

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["NOBODY", "PYTHON", "RUN", "guarded", "helpers", "needs_another_user", "run", "wait_until"]

RUN = (sys.executable, "-m", "tailbite", "run")
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
"""An interpreter that nobody may execute as well; a home directory's may be closed to others."""


def needs_another_user() -> None:
    """Skip where this process cannot become another user: it is not root, or its user namespace has one user."""
    users = sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())
    if os.geteuid() != 0 or users == 1:
        pytest.skip("there is no other user to become here")


def guarded(command: Sequence[str], *options: str, nobody: bool = False) -> list[str]:
    """Return the command line that runs ``command`` under the guard, unprivileged if asked for."""
    start: Sequence[str] = RUN
    if nobody:
        needs_another_user()
        start = python_as_nobody(*RUN[1:])
    return [*start, *options, "--", *command]


def run(command: Sequence[str], **more: Any) -> subprocess.CompletedProcess[str]:
    """Run to the end, with nothing on stdin unless given; output as text.

    The helpers of ``tailbite run`` may end after the program, and have ended as well when this returns: until then
    they may hold the port that a control is going to need.
    """
    more.setdefault("stdin", subprocess.DEVNULL if "input" not in more else None)
    done = subprocess.run(command, **{"capture_output": True, "text": True, "timeout": 120, **more})
    if "tailbite run" in " ".join(command):
        wait_until(lambda: not helpers(), "the helpers of `tailbite run` have ended")
    return done


def helpers() -> list[int]:
    """Return the guard's processes that are alive in this thread's network namespace; others' are not ours."""
    here = Path("/proc/thread-self/ns/net").stat().st_ino
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text() != "tailbite-guard\n":
                continue
            if (process / "ns/net").stat().st_ino == here and process.joinpath("stat").read_text().split()[2] != "Z":
                found.append(int(process.name))
        except OSError:
            continue  # it ended while we looked
    return sorted(found)


def wait_until(is_so: Callable[[], object], what: str, seconds: float = 60, pause: float = 0.01) -> None:
    """Ask again and again until the condition holds; fail after a deadline."""
    end = monotonic() + seconds
    while not is_so():
        assert monotonic() < end, f"waited {seconds} s without success until {what}"
        sleep(pause)
