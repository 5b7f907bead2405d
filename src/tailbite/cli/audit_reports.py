"""The reports of ``tailbite audit``: files, and the result on standard output."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tailbite.cli.output import emit_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.audit.verdict import Verdict, Word

__all__ = ["print_result", "write_reports"]


def write_reports(
    verdicts: Sequence[Verdict], required: Word, left_out: Sequence[str], junit: Path | None, html: Path | None
) -> str | None:
    """Write the files that are asked for; return a sentence if one could not be written, for after the result.

    Args:
        verdicts: one per client.
        required: the worst verdict that passes.
        left_out: clients that were not audited.
        junit: the file of the JUnit report; None for none.
        html: the file of the HTML report; None for none.
    """
    from tailbite._files import write_atomically
    from tailbite.audit.report.page import page, run_origin

    texts: list[tuple[Path, str]] = []
    if junit is not None:
        from tailbite.audit.report.junit import junit as as_junit

        texts.append((junit, as_junit(verdicts, required, left_out)))
    if html is not None:
        texts.append((html, page(verdicts, required, left_out, run_origin())))
    failed = []
    for file, text in texts:
        try:
            write_atomically(file, text)
        except OSError as error:
            failed.append(f"cannot write {file}: {error.strerror}")
    return "; ".join(failed) or None


def print_result(
    verdicts: Sequence[Verdict], required: Word, left_out: Sequence[str], output: str, *, recovery: bool
) -> None:
    """Print the verdicts in a format.

    Args:
        verdicts: one per client.
        required: the worst verdict that passes.
        left_out: clients that were not audited.
        output: table, json or github.
        recovery: True to show the figures of recovery.

    Raises:
        click.UsageError: the job summary of GitHub Actions cannot be written.
    """
    if output == "json":
        from tailbite.audit.report.data import verdict_as_data

        told = [verdict_as_data(verdict) for verdict in verdicts]
        emit_json("audit", schema_version=2, require=required.value, not_audited=left_out, clients=told)
        return
    if output == "github":
        from tailbite.audit.report.github import job_summary, workflow_commands

        click.echo(workflow_commands(verdicts, required, left_out), nl=False)
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            _append(Path(summary), job_summary(verdicts, required, left_out))
    from tailbite.cli.show.audit import print_verdicts

    print_verdicts(verdicts, recovery=recovery)


def _append(file: Path, text: str) -> None:
    """Append to the summary of the job, which has one section per command."""
    try:
        with file.open("a", encoding="utf-8") as summary:
            summary.write(text)
    except OSError as error:
        raise click.UsageError(f"cannot write the job summary {file}: {error.strerror}") from None
