"""A report about many network namespaces prints the worst ones in full, and counts the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from tailbite.cli.show.doctor import print_report
from tailbite.host.explain.checkup import check_host
from tailbite.host.explain.finding import Confidence, Finding, Severity
from tailbite.host.see.namespaces import current_namespace
from tailbite.host.see.records import Namespace, NamespaceKind


def finding(namespace: Namespace, code: str, severity: Severity) -> Finding:
    return Finding(code, severity, Confidence.CERTAIN, f"{namespace.name} has {code}", "", (), namespace)


@pytest.mark.usefixtures("network")
def test_of_many_namespaces_the_worst_are_printed_in_full_and_the_others_are_counted() -> None:
    own = current_namespace()
    checkup = check_host([own])
    (subject,) = checkup.subjects
    others = [Namespace(number, NamespaceKind.PROCESS, f"p{number}", "", (number,)) for number in range(1, 41)]
    places = [subject, *(replace(subject, seen=replace(subject.seen, namespace=one)) for one in others)]
    findings = [finding(one, "TB102", Severity.WARNING) for one in others[:29]]
    findings += [finding(others[29], "TB101", Severity.CRITICAL), finding(others[30], "TB103", Severity.WARNING)]
    console = Console(width=80, record=True)
    print_report(console, replace(checkup, subjects=tuple(places)), findings)
    text = console.export_text()
    assert "p30 has TB101" in text  # the worst, although it comes last but one
    assert "p9 has TB102" in text
    assert "p10 has TB102" not in text
    assert "20 more namespaces have 1 warning (TB102) each" in text
    assert "1 more namespace has 1 warning (TB103)" in text
    assert text.count("--json lists all") == 1
    assert "p35" not in text  # nothing was found there
    assert "nothing found" in text  # in the caller's own
    assert max(map(len, text.splitlines())) <= 80
