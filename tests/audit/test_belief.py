"""Belief: the refused phase is the control, an error that quotes junk is not belief, the answer may be unknown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tailbite.audit import trap
from tailbite.audit.belief import believed_by
from tailbite.audit.records import Allocator, Claim, ConnectionToItself, Ending, Observation, Output
from tailbite.audit.verdict import Belief

HIT = Observation(
    trap.phase("127.0.0.1", Allocator.CONNECT), True, 2.0, dials=1,
    self_connects=(ConnectionToItself(0.1, None, Ending.OPEN, "127.0.0.1", 9),),
)  # fmt: skip
DROPPED = ConnectionToItself(0.1, 0.2, Ending.CLOSED, "127.0.0.1", 9)
UP, BAD = Claim(True, "connected"), Claim(False, "error: bad status line")
WAS_REFUSED, REFUSED_AGAIN = (Claim(False, f"12:00:{second} refused") for second in ("01", "07"))
NO_PORT = Claim(False, "error: Cannot assign requested address")
OTHER_REFUSED = Claim(False, "second connection: refused")
REFUSED = Observation(trap.phase("127.0.0.1", Allocator.BIND), True, 2.0, dials=1, rounds=1)


@pytest.mark.parametrize(
    ("hit", "refused", "belief"),
    [
        ({"exit_status": 0}, {"exit_status": 1}, Belief.YES),
        ({"exit_status": 0}, {"exit_status": 0}, Belief.UNKNOWN),
        ({"exit_status": 0, "has_exited_at": 1.0}, {"rounds": 3}, Belief.YES),
        ({"exit_status": 0, "has_exited_at": 1.0}, {"rounds": 1}, Belief.UNKNOWN),
        ({"exit_status": 0, "has_exited_at": 2.0}, {"rounds": 3, "duration": 1.0}, Belief.UNKNOWN),
        ({"exit_status": 0}, None, Belief.UNKNOWN),
        ({"exit_status": 0, "output": Output(b"bad greeting")}, {"exit_status": 1}, Belief.UNKNOWN),
        ({"exit_status": 1, "was_single": True}, {"exit_status": 1}, Belief.NO),
        ({"exit_status": 1}, {"exit_status": 1}, Belief.UNKNOWN),
        ({"exit_status": 1, "was_single": True, "dials": 2}, {"exit_status": 1}, Belief.UNKNOWN),
        ({"exit_status": 1, "was_single": True, "crowded": True}, {"exit_status": 1}, Belief.UNKNOWN),
        ({"exit_status": 1, "echoed": True}, {"exit_status": 1}, Belief.YES),
        ({"exit_status": -11, "was_single": True}, None, Belief.UNKNOWN),
        ({}, {}, Belief.UNKNOWN),
        ({"claims": (UP,)}, {}, Belief.YES),
        ({"claims": (UP,)}, None, Belief.YES),
        ({"claims": (UP,)}, {"claims": (UP,)}, Belief.UNKNOWN),
        ({"claims": (UP, BAD)}, {"claims": (UP,)}, Belief.NO),
        ({"claims": (UP, BAD)}, {}, Belief.NO),
        ({"claims": (UP, BAD, UP, BAD, UP)}, {}, Belief.NO),
        ({"claims": (BAD, UP)}, {}, Belief.YES),
        ({"claims": (UP, UP, BAD)}, {}, Belief.YES),
        ({"claims": (UP, REFUSED_AGAIN)}, {"claims": (WAS_REFUSED,)}, Belief.YES),
        ({"claims": (REFUSED_AGAIN,)}, {"claims": (WAS_REFUSED,)}, Belief.NO),
        ({"claims": (REFUSED_AGAIN,), "dials": 2}, {"claims": (WAS_REFUSED,)}, Belief.UNKNOWN),
        ({"claims": (REFUSED_AGAIN, BAD), "dials": 2}, {"claims": (WAS_REFUSED,)}, Belief.NO),
        ({"claims": (BAD,), "exit_status": 0}, {}, Belief.NO),
        ({"claims": (BAD,), "exit_status": 1}, {"claims": (BAD,)}, Belief.UNKNOWN),
        ({"claims": (BAD,), "exit_status": 1, "was_single": True}, {"claims": (BAD,)}, Belief.NO),
        ({"claims": (UP, NO_PORT)}, {}, Belief.YES),
        ({"claims": (NO_PORT,)}, {}, Belief.UNKNOWN),
        ({"claims": (UP, OTHER_REFUSED), "dials": 2}, {}, Belief.YES),
        ({"claims": (UP, OTHER_REFUSED)}, {}, Belief.NO),
        ({"echoed": True}, {}, Belief.YES),
        ({"echoed": True, "self_connects": (DROPPED,)}, {}, Belief.UNKNOWN),
        ({"echoed": True, "self_connects": (DROPPED,), "exit_status": 0}, {}, Belief.YES),
        ({"echoed": True}, {"echoed": True}, Belief.UNKNOWN),
        ({"echoed": True, "output": Output(b"Unexpected answer:\nGET /\n")}, {}, Belief.UNKNOWN),
        ({"exit_status": 0}, {"exit_status": 1, "served": True}, Belief.UNKNOWN),
    ],
)
def test_what_a_client_does_is_compared_with_what_it_does_when_refused(
    hit: dict[str, Any], refused: dict[str, Any] | None, belief: Belief
) -> None:
    watched = [replace(HIT, **hit)] + ([] if refused is None else [replace(REFUSED, **refused)])
    assert believed_by(watched) is belief


def test_belief_in_one_phase_is_belief() -> None:
    assert believed_by([replace(HIT, claims=(BAD,)), replace(HIT, claims=(UP,))]) is Belief.YES
    assert believed_by([replace(HIT, claims=(BAD,)), HIT]) is Belief.NO
    assert believed_by([REFUSED]) is Belief.UNKNOWN


def test_a_phase_in_which_it_was_refused_first_counts_only_if_there_is_no_other() -> None:
    sixteen = replace(HIT, phase=trap.phase("127.0.0.1", Allocator.CONNECT, ports=16), exit_status=1, was_single=True)
    assert believed_by([sixteen]) is Belief.NO
    assert believed_by([HIT, sixteen]) is Belief.UNKNOWN
