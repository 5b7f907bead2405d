"""Verdicts as a JUnit report: a client is a test, a verdict that is not good enough its failure."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from tailbite.audit.judge import meets
from tailbite.audit.verdict import Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.audit.verdict import Verdict

__all__ = ["junit"]


def junit(verdicts: Sequence[Verdict], required: Word, left_out: Sequence[str] = ()) -> str:
    """Return the XML text.

    Args:
        verdicts: one per client.
        required: the worst verdict that passes.
        left_out: clients that were not audited, since the audit was interrupted; they are tests that were skipped.
    """
    suite = ET.Element("testsuite", name="tailbite audit", tests=str(len(verdicts) + len(left_out)))
    counts = {"failure": 0, "error": 0, "skipped": 0}
    for verdict in verdicts:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=_printable("tailbite.audit" + "".join(f".{group}" for group in verdict.groups[:1])),
            name=_printable(verdict.client),
            time=f"{sum(seen.duration for seen in verdict.observations):.3f}",
        )
        message = f"{verdict.verdict.value}: {verdict.reason}"
        if not meets(verdict.verdict, required):
            kind = {Word.UNSUPPORTED: "skipped", Word.UNEXERCISED: "error", Word.INCONCLUSIVE: "error"}.get(
                verdict.verdict, "failure"
            )
            counts[kind] += 1
            ET.SubElement(case, kind, message=_printable(message), type=verdict.verdict.value)
        output = "\n".join(f"--- {seen.phase.name}\n{seen.output.text}" for seen in verdict.observations)
        image = f"in the image {verdict.image}\n" if verdict.image else ""
        ET.SubElement(case, "system-out").text = _printable(f"{message}\n{image}{output}")
    for name in left_out:
        case = ET.SubElement(suite, "testcase", classname="tailbite.audit", name=_printable(name))
        counts["skipped"] += 1
        ET.SubElement(case, "skipped", message="not audited: interrupted")
    suite.set("failures", str(counts["failure"]))
    suite.set("errors", str(counts["error"]))
    suite.set("skipped", str(counts["skipped"]))
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=False) + "\n"


def _printable(text: str) -> str:
    """Leave out what XML 1.0 has no way to write (section 2.2): control characters, surrogates."""
    return "".join(
        character
        if character in "\t\n\r"
        or (character >= " " and not 0xD800 <= ord(character) <= 0xDFFF and character not in "￾￿")
        else "�"
        for character in text
    )
