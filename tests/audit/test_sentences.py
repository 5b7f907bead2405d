"""Reasons say what was measured: which server could not start, how a client ended, what it said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tailbite.audit import sentences, trap
from tailbite.audit.records import Allocator, BindAttempt, ConnectionToItself, Ending, Observation, Output
from tailbite.audit.verdict import Word

SEEN = Observation(trap.phase("127.0.0.1", Allocator.CONNECT), True, 6.0)


def why(word: Word, ending: Ending, held: float, bind: tuple[bool, bool] | None) -> str:
    hit = ConnectionToItself(0.0, None if ending is Ending.OPEN else held, ending, "127.0.0.1", 0)
    seen = replace(SEEN, duration=held, watched_hold=1.8, bind=bind and BindAttempt(held, *bind))
    return sentences.why_self_connected(word, seen, hit)


@pytest.mark.parametrize(
    ("word", "ending", "held", "bind", "says", "says_not"),
    [
        (Word.HOLDS, Ending.OPEN, 1.8, (False, False), "no server could start, with or without", "one with it"),
        (Word.HOLDS, Ending.OPEN, 1.8, (False, True), "one with it could", "no server could start"),
        (Word.HOLDS, Ending.OPEN, 1.8, (True, True), "as long as it was watched (1.8 s)", "server"),
        (Word.HOLDS, Ending.OPEN, 1.8, None, "as long as it was watched", "server"),
        (Word.HOLDS, Ending.CLOSED, 2.0, (False, False), "as long as it was watched (2.0 s)", "server"),
        (Word.BLOCKS, Ending.CLOSED, 0.01, (False, False), "kept a server from binding the port, with or", "in all"),
        (Word.BLOCKS, Ending.CLOSED, 0.01, (False, True), "kept a server without SO_REUSEADDR", "in all"),
        (Word.BLOCKS, Ending.CLOSED, 0.01, None, "which leaves a TIME-WAIT", "kept"),
        (Word.ABORTS, Ending.CLOSED, 0.01, (True, True), "could bind the port all the same", "kept"),
        (Word.BLOCKS, Ending.CLOSED, 1.004, (False, False), "after 1.0 s; the TIME-WAIT", "!"),
        (Word.BLOCKS, Ending.CLOSED, 1.004, (False, False), "a server is down for 61 s in all", "!"),
        (Word.ABORTS, Ending.RESET, 0.01, (True, True), "after 10.0 ms, which left the port free", "line"),
        (Word.ABORTS, Ending.RESET, 1.002, (True, True), "a server was down for that time (the limit is 1.5", "!"),
        (Word.ABORTS, Ending.RESET, 0.01, (False, False), "reset the connection", "free"),
    ],
)
def test_a_sentence_says_what_was_measured_and_nothing_else(
    word: Word, ending: Ending, held: float, bind: tuple[bool, bool] | None, says: str, says_not: str
) -> None:
    told = why(word, ending, held, bind)
    assert says in told
    assert says_not not in told


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (
            {"exit_status": 2, "has_exited_at": 0.1, "output": Output(b"usage: x\n")},
            "exited with 2 after 100.0 ms",
        ),
        (
            {"exit_status": 2, "has_exited_at": 0.1, "output": Output(b"usage: x\n")},
            "was: usage: x (an option",
        ),
        ({"exit_status": 0}, "it printed nothing"),
        ({"exit_status": 0, "has_exited_at": 0.1}, "and what it had started was still running after 6 s"),
        ({"exit_status": 0, "has_exited_at": 0.1, "is_gone": True}, "with 0 after 100.0 ms; it printed nothing"),
        ({"exit_status": -11}, "it was ended by signal 11"),
        ({}, "it was still running after 6 s (--timeout SECONDS waits longer); it printed nothing (does it wait for"),
        ({"output": Output(b"stdin is not a tty")}, "script -qec"),
        ({"output": Output(b"Name or service not known")}, "no DNS in the trap"),
        ({"output": Output(b"[Errno 99] Cannot assign requested address")}, "EADDRNOTAVAIL"),
        ({"output": Output(b"key.pem: No such file or directory")}, "a file seems to be missing"),
        ({"output": Output(b"Permission denied")}, "lacks a permission"),
        ({"output": Output(b"Network is unreachable")}, "dials another host"),
        ({"output": Output(b"starting")}, "its last output was: starting"),
        ({"served": True}, "a listener of its own took the dead port"),
    ],
)
def test_a_client_that_never_dialled_is_told_with_its_end_its_last_words_and_the_usual_reason(
    seen: dict[str, Any], says: str
) -> None:
    assert says in sentences.unexercised([replace(SEEN, **seen)])
    assert "\n" not in sentences.unexercised([replace(SEEN, **seen)])


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "<0.1 ms"), (0.00006, "0.1 ms"), (0.0011, "1.1 ms"), (1.0, "1.0 s"), (61.04, "61.0 s")]
)
def test_a_time_is_never_written_as_zero(value: float, text: str) -> None:
    assert sentences.seconds(value) == text


def test_a_client_that_was_not_run_is_told() -> None:
    assert "it was not run" in sentences.unexercised([])


def test_an_immune_clients_sentence_says_how_often_it_came_back() -> None:
    once = replace(SEEN, dials=1, is_gone=True)
    assert "dialled the dead port once and never connected to itself" in sentences.why_immune([once])
    running = replace(SEEN, dials=4, rounds=4, had_to_come_back=True)
    assert "5 times, came back at least 3 times while it was watched, and never" in sentences.why_immune(
        [once, running]
    )


def test_a_dial_whose_time_was_lost_does_not_break_the_sentence() -> None:
    assert "dialled 4 times" in sentences.did_not_come_back(replace(SEEN, dials=4, rounds=4))
