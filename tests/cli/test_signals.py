"""A signal to end reaches a command, unless its starter had the signal ignored."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tailbite.cli.signals import ENDING, call_when_ended

if TYPE_CHECKING:
    from collections.abc import Iterator


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
