"""The user's command gets each event; slow, failing and too many commands do not stop the watch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tailbite.watch import event_command
from tailbite.watch.event_command import EventCommand

if TYPE_CHECKING:
    from pathlib import Path


def test_fields_and_document_arrive(tmp_path: Path) -> None:
    command = EventCommand(f'echo "$TAILBITE_PORT $TAILBITE_NAME" > {tmp_path}/out; cat >> {tmp_path}/out')
    command.submit({"port": 5432, "name": "a\0b; rm -rf /"}, '{"port": 5432}')
    command.finish(20)
    assert (tmp_path / "out").read_text() == '5432 a?b; rm -rf /\n{"port": 5432}\n'
    assert (command.failed, command.dropped) == (0, 0)


def test_more_than_8_run_one_after_the_other(tmp_path: Path) -> None:
    command = EventCommand(f"echo x >> {tmp_path}/out")
    for _ in range(30):
        command.submit({}, "{}")
    command.finish(60)
    assert (tmp_path / "out").read_text() == "x\n" * 30


def test_failures_are_counted_and_too_many_are_dropped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(event_command, "MOST_QUEUED", 3)
    gate = tmp_path / "gate"
    command = EventCommand(f"until [ -e {gate} ]; do sleep 0.01; done; exit 3")
    for _ in range(event_command.MOST_RUNNING + 3 + 2):
        command.submit({}, "{}")
    assert command.dropped == 2
    gate.touch()
    command.finish(60)
    assert command.failed == event_command.MOST_RUNNING + 3


def test_what_still_waits_at_the_end_is_dropped_and_counted() -> None:
    command = EventCommand("exec sleep 30")
    for _ in range(event_command.MOST_RUNNING + 3):
        command.submit({}, "{}")
    command.finish(0.0)
    assert command.dropped == 3
    for process in command._running:
        process.kill()
        process.wait()


def test_a_command_has_the_priority_from_before_it_was_raised(tmp_path: Path) -> None:
    command = EventCommand(f"nice > {tmp_path}/priority")
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, before - 3)
    except PermissionError:
        pytest.skip("raising the priority needs CAP_SYS_NICE")
    try:
        command.submit({}, "")
        assert os.getpriority(os.PRIO_PROCESS, 0) == before - 3
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)
    command.finish(60)
    assert (tmp_path / "priority").read_text() == f"{before}\n"


def test_a_command_that_does_not_end_is_left_behind() -> None:
    command = EventCommand("exec sleep 30")
    command.submit({}, "{}")
    command.finish(0.01)
    (process,) = command._running
    process.kill()
    process.wait()
