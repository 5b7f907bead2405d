"""Accepted findings: what a baseline file or --ignore names is left out, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.core.ports import PortSet
from tailbite.host.explain.baseline import KnownFindings, baseline_of, parse_baseline, parse_ignored
from tailbite.host.explain.finding import Confidence, Finding, Severity
from tailbite.host.see.records import Namespace, NamespaceKind

OWN = Namespace(1, NamespaceKind.OWN, "this namespace")
OTHER = Namespace(2, NamespaceKind.NAMED, "blue", "/run/netns/blue")


def finding(code: str, ports: PortSet = PortSet(), what: str = "x", where: Namespace = OWN) -> Finding:  # noqa: B008
    return Finding(code, Severity.WARNING, Confidence.CERTAIN, what, "", (), where, ports=ports)


ports = st.sets(st.integers(1, 65535), max_size=6).map(PortSet.of)
findings = st.builds(
    finding, st.sampled_from(["TB204", "TB207"]), ports, st.sampled_from(["a", "b"]), st.sampled_from([OWN, OTHER])
)


@given(st.lists(findings, max_size=5), findings)
def test_a_baseline_covers_what_it_was_made_of_and_no_other_port(known: list[Finding], other: Finding) -> None:
    accepted = KnownFindings(parse_baseline(baseline_of(known)))
    assert all(accepted.covers(one) for one in known)
    alike = [one for one in known if (one.code, one.namespace) == (other.code, other.namespace)]
    seen = {port for one in alike for port in one.ports}
    expected = (
        bool(other.ports) and seen.issuperset(other.ports)
        if other.ports
        else other.what in {one.what for one in alike if not one.ports}
    )
    assert accepted.covers(other) == (expected or other.what in {one.what for one in alike if not one.ports})


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("TB204", ["TB204"]),
        ("tb204,TB207", ["TB204", "TB207"]),
        ("TB201", ["TB101"]),
        ("TB204:1-3,8,TB207", ["TB204", "TB207"]),
    ],
)
def test_codes_with_ports_are_read(text: str, codes: list[str]) -> None:
    assert [one.code for one in parse_ignored(text)] == codes


def test_a_code_with_ports_leaves_out_those_ports_only() -> None:
    accepted = KnownFindings(parse_ignored("TB204:40000-40010"))
    assert accepted.ports("TB204", OWN) == frozenset(range(40000, 40011))
    assert accepted.ports("TB109", OWN) == frozenset()
    assert not accepted.covers(finding("TB204", PortSet.parse("40000,50000")))


@pytest.mark.parametrize("text", ["", "TB20", "204", "TB204:", "TB204:x"])
def test_other_words_are_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_ignored(text)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"schema": "x"}', '{"schema": "tailbite.baseline/1", "accepted": [1]}']
)
def test_a_file_that_is_not_a_baseline_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_baseline(text)
