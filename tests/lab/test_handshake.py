"""One self-connect on the wire: captured, followed, and shown."""

from __future__ import annotations

import errno

import pytest

from support.abilities import has_ability
from support.old_kernel import refuse_to_destroy
from tailbite.lab import handshake
from tailbite.lab.diagrams import mermaid_diagrams, text_diagram
from tailbite.lab.handshake import Scene, capture_scenes, scenes_from_record, scenes_to_record

PORT = 32246


@pytest.fixture
def scenes(network: None) -> list[Scene]:
    return capture_scenes(PORT)[0]


def test_a_self_connect_is_rfc_9293_figure_8_folded(scenes: list[Scene]) -> None:
    """SYN, SYN+ACK with the same sequence number, ACK with D-SACK; then the simultaneous close."""
    folded = scenes[0]
    assert folded.is_folded
    assert [
        (step.before, step.flags, step.after) for step in folded.steps if step.flags != "ACK" and not step.length
    ] == [
        ("SYN-SENT", "SYN", "SYN-RECEIVED"),
        ("SYN-RECEIVED", "SYN,ACK", "ESTABLISHED"),
        ("FIN-WAIT-1", "FIN,ACK", "CLOSING"),
    ]
    syn, answer, third = folded.steps[:3]
    assert (syn.sequence, syn.acknowledgment) == (0, None)
    assert (answer.sequence, answer.acknowledgment) == (0, 1)
    duplicate = (0, 1) if has_ability("DUPLICATE_SACK") else None
    assert (third.sequence, third.acknowledgment, third.duplicate) == (1, 1, duplicate)
    assert folded.steps[-1].after == "TIME-WAIT"


def test_what_close_leaves_and_what_reset_leaves_is_what_the_kernel_lists(scenes: list[Scene]) -> None:
    """The states told from the segments are those sock_diag shows afterwards."""
    closed, reset, ordinary = scenes
    assert closed.left == closed.steps[-1].after == "TIME-WAIT"
    assert reset.left is None
    assert (reset.steps[-1].flags, reset.steps[-1].after) == ("RST,ACK", "CLOSED")
    assert ordinary.left == "TIME-WAIT"


@pytest.mark.usefixtures("network")
def test_no_scene_needs_the_end_of_a_time_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels up to 5.10 do not destroy a TIME-WAIT, so the second self-connect happens in another namespace."""
    refuse_to_destroy(monkeypatch)
    closed, reset, ordinary = capture_scenes(PORT)[0]
    assert (closed.left, reset.left, ordinary.left) == ("TIME-WAIT", None, "TIME-WAIT")


@pytest.mark.usefixtures("network")
def test_a_capture_that_is_refused_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(handshake, "Capture", refuse)
    with pytest.raises(PermissionError, match=r"packets cannot be captured here \(Operation not permitted\)"):
        capture_scenes(PORT)


def test_an_ordinary_handshake_has_two_sides(scenes: list[Scene]) -> None:
    ordinary = scenes[2]
    assert not ordinary.is_folded
    assert [(step.sender, step.flags, step.after) for step in ordinary.steps[:3]] == [
        (0, "SYN", "SYN-RECEIVED"),
        (1, "SYN,ACK", "ESTABLISHED"),
        (0, "ACK", "ESTABLISHED"),
    ]
    assert all(step.duplicate is None for step in ordinary.steps)
    assert {step.after for step in ordinary.steps} >= {"CLOSE-WAIT", "TIME-WAIT", "CLOSED"}


def test_text_fits_a_terminal_and_says_what_is_left(scenes: list[Scene]) -> None:
    for scene in scenes:
        text = text_diagram(scene)
        assert all(len(line) <= 80 for line in text.splitlines())
        assert all(step.segment in text for step in scene.steps)
    assert "no server can bind the port" in text_diagram(scenes[0])
    assert "nothing is left" in text_diagram(scenes[1])


def test_mermaid_has_a_message_for_each_segment(scenes: list[Scene]) -> None:
    text = mermaid_diagrams(scenes)
    assert text.count("```mermaid") == len(scenes)
    assert text.count("->>") == sum(len(scene.steps) for scene in scenes)
    assert ";" not in text


def test_a_record_comes_back_as_it_was(scenes: list[Scene]) -> None:
    assert scenes_from_record(scenes_to_record(scenes)) == scenes
