"""Verdicts for GitHub Actions: one annotation per client on stdout, and a job summary in Markdown.

The formats are those of "Workflow commands for GitHub Actions": in a message ``%``, CR and LF are percent-encoded,
in a property ``:`` and ``,`` as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailbite.audit.judge import meets
from tailbite.audit.language import cure_of, cure_url
from tailbite.audit.verdict import Belief, Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.audit.verdict import Verdict

__all__ = ["job_summary", "workflow_commands"]


def workflow_commands(verdicts: Sequence[Verdict], required: Word, left_out: Sequence[str] = ()) -> str:
    """Return the workflow commands: an error per client that does not pass, a warning per one without a verdict."""
    lines = [_annotation(verdict, required) for verdict in verdicts]
    lines += [_command("warning", name, "not audited: interrupted") for name in left_out]
    return "".join(f"{line}\n" for line in lines)


def _annotation(verdict: Verdict, required: Word) -> str:
    message = f"{verdict.verdict.value}: {verdict.reason}."
    if verdict.image:
        message += f"\nIn the image {verdict.image}."
    if language := cure_of(verdict):
        message += f"\nThe cure: {cure_url(language)}"
    if meets(verdict.verdict, required):
        return _command("notice", verdict.client, message)
    return _command("warning" if verdict.verdict is Word.UNSUPPORTED else "error", verdict.client, message)


def _command(kind: str, client: str, message: str) -> str:
    title = _escaped(f"tailbite audit: {client}").replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={title}::{_escaped(message)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def job_summary(verdicts: Sequence[Verdict], required: Word, left_out: Sequence[str] = ()) -> str:
    """Return the Markdown text for the file that ``$GITHUB_STEP_SUMMARY`` names."""
    good = sum(meets(verdict.verdict, required) for verdict in verdicts)
    better = "" if required is Word.IMMUNE else " or better"
    lines = [
        "## tailbite audit",
        "",
        f"{good} of {len(verdicts)} clients are {required.value}{better}.",
        "",
        "| client | verdict | believed | reason |",
        "|---|---|---|---|",
    ]
    for verdict in verdicts:
        believed = verdict.believed.value if verdict.believed is not Belief.UNKNOWN else "-"
        language = cure_of(verdict)
        cure = f" [The cure]({cure_url(language)})" if language else ""
        client = _cell(f"{verdict.client} ({verdict.image})" if verdict.image else verdict.client)
        lines.append(f"| {client} | **{verdict.verdict.value}** | {believed} | {_cell(verdict.reason)}.{cure} |")
    if left_out:
        lines += ["", f"Interrupted; not audited: {_cell(', '.join(left_out))}."]
    return "\n".join(lines) + "\n\n"


def _cell(text: str) -> str:
    """Escape a text for a cell of a Markdown table: no markup, no bar, one line."""
    marked = "".join(f"\\{char}" if char in r"\`*_[]<>|#" else char for char in text)
    return " ".join(marked.split())
