"""One self-contained HTML page: the matrix, and below it each client with its pictures. No script, nothing loaded."""

from __future__ import annotations

import datetime
import platform
import re
import shlex
import sys
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from tailbite._version import __version__
from tailbite.audit.judge import meets
from tailbite.audit.language import cure_of, cure_url
from tailbite.audit.report.timeline import timeline
from tailbite.audit.sentences import seconds, times
from tailbite.audit.verdict import Figure, Remains, Word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailbite.audit.records import Observation
    from tailbite.audit.verdict import Timing, Verdict

__all__ = ["ReportOrigin", "page", "run_origin"]

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif;
  --ink: #1c2226; --muted: #56616a; --paper: #fff; --line: #d8dee2; --grid: #e4e9ec; --code: #f3f6f8;
  --link: #0b57a4; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e3e7ea; --muted: #a9b4bc; --paper: #14181b; --line: #39434a; --grid: #2b3338; --code: #20272c;
  --link: #8fc1f0; } }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: var(--ink); background: var(--paper); }
a { color: var(--link); }
p, h2, h3 { overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; color: var(--muted); padding: .3rem 0; }
caption span { display: block; position: sticky; left: 0; max-width: calc(100vw - 3rem); }
.legend { list-style: none; padding: 0; } .legend li { margin: .2rem 0; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody th { font-weight: normal; }
.origin { color: var(--muted); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.word { border-radius: .25rem; padding: .05rem .45rem; color: #fff; white-space: nowrap; }
.immune { background: #2e7d32; } .aborts { background: #8a6d00; } .blocks { background: #b3541e; }
.holds { background: #b71c1c; } .unexercised, .inconclusive, .unsupported { background: #5f6b73; }
.scroll { overflow-x: auto; }
@media (max-width: 50rem) { .scroll { border-right: 3px dashed var(--muted); }
  .scroll::before { content: "scrolls sideways →"; position: sticky; left: 0; color: var(--muted);
    font-size: .8rem; } }
svg text { font: 11px system-ui, sans-serif; fill: var(--ink); } svg .grid { stroke: var(--grid); }
pre { background: var(--code); padding: .6rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .4rem 0 1rem; } summary { cursor: pointer; } h2 { margin-top: 2.2rem; }
"""

_MEANINGS = {
    Word.IMMUNE: "dialled the dead port, came back or ended, and never connected to itself",
    Word.ABORTS: "connected to itself; a server is kept down for less than 1.5 s",
    Word.BLOCKS: "connected to itself and let go; a server is kept down for up to a minute, mostly by TIME-WAIT",
    Word.HOLDS: "connected to itself and stayed so; a server is kept down for longer, mostly while the client runs",
    Word.UNEXERCISED: "never dialled the port, so it does not pass",
    Word.INCONCLUSIVE: "too little was seen, so it does not pass",
    Word.UNSUPPORTED: "cannot be audited here",
}


_PHASES = {
    "connect": "a client that connects at once gets the dead port",
    "bind": "a client that binds before it connects gets the dead port",
}
"""Purpose of a trap by the first word of its phase's name."""


@dataclass(frozen=True, slots=True)
class ReportOrigin:
    """Place, time and command of a report.

    Attributes:
        made: date and time, as text.
        system: kernel, architecture, and the versions of Python and tailbite.
        command: the command line.
    """

    made: str
    system: str
    command: str


def run_origin() -> ReportOrigin:
    """Return the origin of a report that this process makes now."""
    system = f"{platform.system()} {platform.release()} ({platform.machine()}), Python {platform.python_version()}"
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    command = shlex.join(("tailbite", *sys.argv[1:]))
    return ReportOrigin(made, f"{system}, tailbite {__version__}", command)


def page(
    verdicts: Sequence[Verdict],
    required: Word,
    left_out: Sequence[str] = (),
    origin: ReportOrigin | None = None,
) -> str:
    """Return the HTML text.

    Args:
        verdicts: one per client.
        required: the worst verdict that passes.
        left_out: clients that were not audited, since the audit was interrupted.
        origin: where, when and how the report was made.
    """
    good = sum(meets(verdict.verdict, required) for verdict in verdicts)
    rows = "".join(_row(position, verdict) for position, verdict in enumerate(verdicts))
    parts = "".join(_client(position, verdict) for position, verdict in enumerate(verdicts))
    missing = f"<p>Interrupted; not audited: {_text(', '.join(left_out))}.</p>" if left_out else ""
    legend = "".join(f"<li>{_badge(word)} {escape(meaning)}</li>" for word, meaning in _MEANINGS.items())
    made = "" if origin is None else _origin(origin)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>tailbite audit</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>Would it connect to itself?</h1><p>{good} of {len(verdicts)} clients are {required.value}"
        f"{'' if required is Word.IMMUNE else ' or better'}.</p>{made}{missing}"
        '<div class="scroll" tabindex="0" role="region" aria-label="Verdicts"><table id="matrix">'
        "<caption><span>Verdict of each client, and the worst that was seen of it</span></caption><thead><tr>"
        '<th scope="col">client</th><th scope="col">verdict</th><th scope="col">believed</th>'
        '<th scope="col" class="number">times</th><th scope="col" class="number">longest hold</th>'
        '<th scope="col">left</th><th scope="col" class="number">server down<br>plain / reuse</th>'
        '<th scope="col" class="number">recovered</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div><ul class='legend'>{legend}</ul>{parts}</main></body></html>\n"
    )


def _origin(origin: ReportOrigin) -> str:
    return (
        f'<p class="origin">Made on {_text(origin.made)} on {_text(origin.system)} with '
        f"<code>{_text(origin.command)}</code></p>"
    )


def _badge(word: Word) -> str:
    return f'<span class="word {word.value}">{word.value}</span>'


def _seconds(value: float | None) -> str:
    return "–" if value is None else escape(seconds(value))


def _row(position: int, verdict: Verdict) -> str:
    open_ended = "&gt; " if verdict.left is Remains.ESTABLISHED else ""
    down = _down(verdict)
    return (
        f'<tr><th scope="row"><a href="#client-{position}">{_text(verdict.client)}</a> {_text(verdict.version)}</th>'
        f"<td>{_badge(verdict.verdict)}</td><td>{verdict.believed.value}</td>"
        f'<td class="number">{verdict.self_connects}</td>'
        f'<td class="number">{open_ended}{_seconds(verdict.longest_hold)}</td>'
        f"<td>{verdict.left.value if verdict.left else '–'}</td>"
        f'<td class="number">{down}</td><td class="number">{_timing(verdict.recovered_after)}</td></tr>'
    )


def _down(verdict: Verdict) -> str:
    if verdict.server_down.outcome is not Figure.NOT_ASKED:
        return _timing(verdict.server_down)
    return " / ".join(dict.fromkeys(map(_timing, (verdict.server_down_plain, verdict.server_down_reuse))))


def _timing(timing: Timing) -> str:
    if timing.outcome is Figure.MEASURED:
        return _seconds(timing.seconds)
    if timing.outcome is Figure.LONGER:
        return f"&gt; {timing.seconds or 0.0:.0f} s"
    return "–" if timing.outcome is Figure.NOT_ASKED else timing.outcome.value.replace("-", " ")


def _client(position: int, verdict: Verdict) -> str:
    phases = "".join(map(_phase, verdict.observations))
    language = cure_of(verdict)
    cure = f'<p><a href="{cure_url(language)}">The cure, with an example</a></p>' if language else ""
    image = f"<p>In the image {_text(verdict.image)}.</p>" if verdict.image else ""
    reason = verdict.reason[:1].upper() + verdict.reason[1:]
    return (
        f'<section id="client-{position}"><h2>{_text(verdict.client)} {_badge(verdict.verdict)}</h2>'
        f"<p>{_text(reason)}.</p>{cure}{image}<pre>{_text(shlex.join(verdict.command))}</pre>{phases}</section>"
    )


def _phase(seen: Observation) -> str:
    said = seen.output.text
    output = f"<details><summary>output, {seen.output.total} bytes</summary><pre>{_text(said[:8000])}</pre></details>"
    trouble = f"<p>{_text(seen.trouble)}</p>" if seen.trouble else ""
    name = escape(seen.phase.name, quote=True)
    return (
        f"<h3>{name}</h3><p>{_purpose(seen.phase.name)} "
        f"The dead port is {seen.phase.port}, the ephemeral range {seen.phase.ephemeral}. "
        f"{_course(seen)}</p>{trouble}"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}, timeline">'
        f"{timeline(seen)}</div>{output if seen.output.total else ''}"
    )


def _course(seen: Observation) -> str:
    hits = len(seen.self_connects)
    if seen.exit_status is None:
        end = "was still running at the end"
    elif seen.exit_status < 0:
        end = f"was ended by signal {-seen.exit_status}"
    else:
        end = f"exited with {seen.exit_status}"
    to_itself = "never connected to itself" if hits == 0 else f"connected to itself {times(hits)}"
    dialled = f"dialled {times(seen.dials)}, {to_itself}," if seen.dials else "never dialled the port"
    return f"The client {dialled} and {end}."


def _purpose(name: str) -> str:
    purpose = _PHASES.get(name.partition("-")[0])
    if purpose is None:
        return ""
    width = (
        "a range of sixteen ports, for clients that dial again"
        if name.endswith("16-ports")
        else "a range of two ports"
    )
    return f"In this trap, with {width}, {purpose}."


def _text(text: str) -> str:
    """Escape, and show control characters as what they are: output of programs is any bytes."""
    shown = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", lambda match: f"\\x{ord(match.group()):02x}", text)
    return escape(shown)
