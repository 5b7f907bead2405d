"""A signal to end reaches a command, unless its starter had the signal ignored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tailbite.cli.signals import ENDING, call_when_ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_each_ending_signal_calls_the_handler_with_its_number() -> None:
    heard: list[int] = []
    call_when_ended(heard.append)
    for number in ENDING:
        signal.raise_signal(number)
    assert heard == list(ENDING)


def test_an_ignored_signal_stays_ignored() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    call_when_ended(heard.append)
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]


@pytest.mark.usefixtures("network")
def test_a_wait_that_is_process_1_ends_by_sigterm(peer: Callable[[str], str]) -> None:
    """The kernel ignores signals to process 1 of a container unless the process handles them."""
    inside = [peer("unshare"), "--pid", "--fork", "--kill-child", "--mount-proc"]
    wait = [*inside, sys.executable, "-m", "tailbite", "wait", "127.0.0.1:700"]
    with subprocess.Popen(wait, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        if not (said := waiting.stderr.readline()).startswith("tailbite: "):
            pytest.skip(f"no pid namespace can be made here: {said}")
        first = Path(f"/proc/{waiting.pid}/task/{waiting.pid}/children").read_text()
        os.kill(int(first), signal.SIGTERM)
        assert waiting.wait(60) == 128 + signal.SIGTERM
