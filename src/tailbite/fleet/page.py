"""The report as one HTML page that loads nothing: for a browser, a phone, a printer, in light and dark. Pure."""

from __future__ import annotations

from datetime import datetime, timezone
from html import escape
from typing import TYPE_CHECKING

from tailbite.core.ports import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tailbite.fleet.records import FleetReport

__all__ = ["fleet_page", "utc"]

_STYLE = """
:root { color-scheme: light dark; --text: #1c2226; --back: #fff; --line: #c9d1d6; --soft: #f1f4f6; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9eb; --back: #14181b; --line: #3b444a; --soft: #1f262a; --bad: #ff8a80; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); margin: 0 auto;
  max-width: 64rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); }
@media (max-width: 50rem) { .scroll { border-right: 3px dashed var(--text); }
  .scroll::before { content: "scrolls sideways →"; position: sticky; left: .7rem; font-size: .8rem; } }
td code { display: inline-block; min-width: 20rem; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding: .5rem .7rem; background: var(--soft); }
caption span { display: block; position: sticky; left: .7rem; max-width: calc(100vw - 4rem); }
th, td { text-align: left; padding: .35rem .7rem; border-top: 1px solid var(--line); vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.bad { color: var(--bad); font-weight: 600; }
code { background: var(--soft); padding: .1rem .3rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; } dd { margin: 0; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { padding-left: 1rem; } }
"""


def utc(seconds: float) -> str:
    """Return a moment as people read it, in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")  # noqa: UP017 - Python 3.10


def fleet_page(report: FleetReport, *, version: str, now: float) -> str:
    """Return the HTML text.

    Args:
        report: the report.
        version: tailbite's version.
        now: seconds since the epoch, when the report is made.
    """
    affected = len({(one.group, one.host) for one in report.self_connects})
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TCP self-connects on {report.hosts} hosts</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>TCP self-connects on {report.hosts} hosts</h1>
<dl>
<dt>Hosts with a self-connect now</dt><dd{' class="bad"' if affected else ""}>{affected}</dd>
<dt>Hosts with an exposed service</dt><dd>{sum(group.exposed_hosts for group in report.groups)} of {report.examined}
examined by the doctor</dd>
<dt>Hosts not seen completely</dt><dd>{report.incomplete}</dd>
<dt>Taken</dt><dd>{utc(report.oldest)} to {utc(report.newest)}</dd>
<dt>Made</dt><dd>{utc(now)}, by tailbite {escape(version)}</dd>
</dl>
{_self_connects(report)}
{_exposures(report)}
{_groups(report)}
{_unread(report)}
</main>
</body>
</html>
"""


def _self_connects(report: FleetReport) -> str:
    rows = [(one.host, one.group, one.endpoint, one.state, one.owner, one.unit) for one in report.self_connects]
    caption = "A client is connected to itself, or has left its TIME-WAIT: no server can start on that port."
    heads = ("Host", "Group", "Endpoint", "State", "Program", "Unit or container")
    return _section("Connected to themselves now", caption, heads, rows, "No host has a self-connect.")


def _exposures(report: FleetReport) -> str:
    rows = [
        (shortened(str(one.ports)), str(one.hosts), ", ".join(one.programs) or "not running")
        for one in report.exposures
    ]
    caption = "These ports lie in the ephemeral range and are not reserved: the kernel may give them to a client."
    heads = ("Ports", "Hosts", "Programs")
    return _section("Exposed services", caption, heads, rows, "No exposed service was found.", numbers={1})


def _groups(report: FleetReport) -> str:
    rows = [
        (
            one.name or "all hosts",
            str(one.hosts),
            str(one.affected),
            str(one.exposed_hosts),
            f"tailbite fix --reserve {one.reserve} --apply" if one.reserve else "",
        )
        for one in report.groups
    ]
    caption = "One list of ports for all hosts of a group, so that they stay alike."
    heads = ("Group", "Hosts", "With a self-connect", "With an exposed service", "Reserve")
    return _section("What to reserve", caption, heads, rows, "There are no hosts.", numbers={1, 2, 3}, code={4})


def _unread(report: FleetReport) -> str:
    if not report.unread:
        return ""
    rows = [(str(one.path), one.reason) for one in report.unread]
    return _section(
        "Files that could not be used", "They are in none of the figures above.", ("File", "Reason"), rows, ""
    )


def _section(
    title: str,
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    nothing: str,
    *,
    numbers: Iterable[int] = (),
    code: Iterable[int] = (),
) -> str:
    body = ""
    for row in rows:
        cells = ""
        for index, value in enumerate(row):
            text = f"<code>{escape(value)}</code>" if index in code and value else escape(value)
            if index == 0:
                cells += f'<th scope="row">{text}</th>'
            else:
                cells += f"<td{' class=number' if index in numbers else ''}>{text}</td>"
        body += f"<tr>{cells}</tr>\n"
    if not body:
        return f"<h2>{title}</h2>\n<p>{nothing}</p>\n"
    columns = "".join(
        f'<th scope="col"{" class=number" if index in numbers else ""}>{head}</th>'
        for index, head in enumerate(heads)
    )
    return f"""<h2>{title}</h2>
<div class="scroll" tabindex="0" role="region" aria-label="{title}"><table>
<caption><span>{caption}</span></caption>
<thead><tr>{columns}</tr></thead>
<tbody>
{body}</tbody>
</table></div>
"""
