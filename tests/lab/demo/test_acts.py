"""The acts themselves: what they claim is measured, and an act that fails says so."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tailbite.connect import attempt
from tailbite.core.plan import HostFacts, plan
from tailbite.core.ports import PortRange
from tailbite.kernel.sysctl import write_ephemeral_range
from tailbite.lab.demo import guarded
from tailbite.lab.demo.acts import play_demo, play_natural_demo
from tailbite.lab.demo.records import DemoSettings


class Transcript:
    """A narrator that keeps what it receives."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def begin_act(self, number: int, title: str) -> None:
        self.lines.append(f"{number}. {title}")

    def explain(self, text: str) -> None:
        self.lines.append(text)

    def show_line(self, text: str) -> None:
        self.lines.append(text)

    def count_attempts(self, attempts: int) -> None: ...


@pytest.mark.usefixtures("network")
def test_six_acts_show_what_they_claim() -> None:
    transcript = Transcript()
    acts = list(play_demo(transcript, DemoSettings(32246, PortRange(9000, 65500))))
    assert [act.number for act in acts] == [1, 2, 3, 4, 5, 6]
    assert [act.claim for act in acts if not act.shown] == []
    assert [line for line in transcript.lines if line[:2] in {f"{act.number}." for act in acts}] == [
        f"{act.number}. {act.title}" for act in acts
    ]


@pytest.mark.usefixtures("network")
def test_natural_on_a_port_of_the_other_parity_says_that_nothing_was_shown() -> None:
    """32775 is odd, the low end of the default range even: connect(2) never chooses that port."""
    transcript = Transcript()
    acts = play_natural_demo(transcript, DemoSettings(32775, PortRange(32768, 60999), most_attempts=20_000))
    first, second = next(acts), next(acts)
    assert not first.shown
    assert not second.shown
    assert "No self-connect in 20,000 attempts." in transcript.lines


@pytest.mark.usefixtures("network")
def test_without_a_self_connect_the_last_act_is_not_shown() -> None:
    """The control decides: 32246 lies outside the default range, so no plain socket connects to itself."""
    code = """
from tailbite.kernel.namespace import fresh_network
from tailbite.lab.demo.guarded import play_guarded
class Silent:
    def begin_act(self, *_): pass
    explain = show_line = count_attempts = begin_act
with fresh_network():
    act = play_guarded(Silent(), 32246, 10)
assert not act.shown, act
assert {m.name: m.value for m in act.measurements}["control_self_connected"] is False
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.usefixtures("network")
def test_the_last_act_holds_without_port_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before Linux 6.3: a self-connect is reset at once, and a start that meets one is repeated."""
    monkeypatch.setattr(guarded, "supports_local_port_range", lambda: False)
    monkeypatch.setattr(attempt, "plan_for", lambda sock, port: plan(port, 0, HostFacts(None, steerable=False)))
    write_ephemeral_range(PortRange(32246, 32247))
    act = guarded.play_guarded(Transcript(), 32246, 100)
    measured = {each.name: each.value for each in act.measurements}
    assert act.shown, act
    assert measured["control_self_connected"] is True
    assert measured["bind"] == "ok"
