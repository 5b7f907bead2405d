"""Generator of the pictures of docs/story.md: the six acts of ``tailbite demo`` as a real run shows them.

The tool plays the demo in a private network, and makes a picture of each act, docs/figures/story-1.svg to
story-6.svg, and one animated picture of all of them in turn, docs/figures/story.svg. Run: ``make story``
(Debian: inetutils-telnet); ``--check`` plays the demo again and compares the text of the pictures, numbers aside.
"""

from __future__ import annotations

import html
import re
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tailbite.core.ports import PortRange
from tailbite.kernel.namespace import enter_private_network
from tailbite.lab.clients import TelnetClient
from tailbite.lab.demo.acts import play_demo
from tailbite.lab.demo.records import DemoSettings
from tailbite.lab.record import machine_facts

if TYPE_CHECKING:
    from collections.abc import Iterator

FIGURES: Final = Path(__file__).parents[1] / "docs" / "figures"
PORT: Final = 32246
WIDTH, HEIGHT, COLUMNS, LINE, TOP = 480, 410, 52, 20, 168
SECONDS_PER_ACT: Final = 6

INK, PAPER, MUTED, CLIENT, SERVER, BAD = "#1a1a1a", "#ffffff", "#595959", "#c05a12", "#1f4e79", "#a01c1c"


@dataclass
class Transcript:
    """A narrator that records the acts: for each its title and its lines, prose marked by a leading tab."""

    acts: list[tuple[int, str, list[str]]] = field(default_factory=list)

    def begin_act(self, number: int, title: str) -> None:
        self.acts.append((number, title, []))

    def explain(self, text: str) -> None:
        self.acts[-1][2].append(f"\t{text}")

    def show_line(self, text: str) -> None:
        self.acts[-1][2].append(text.replace("\t", " "))

    def count_attempts(self, attempts: int) -> None: ...


def record_demo() -> Transcript:
    """Play the demo in this process's private network, and return its transcript.

    Raises:
        RuntimeError: an act did not show what it claims.
    """
    transcript = Transcript()
    for act in play_demo(transcript, DemoSettings(PORT, PortRange(9000, 65500))):
        if not act.shown:
            raise RuntimeError(f"act {act.number} did not show its claim: {act.claim}; measured: {act.measured}")
    return transcript


def act_picture(number: int, title: str, lines: list[str]) -> tuple[str, int]:
    """Return the content of one picture (title, sketch and transcript), and its height."""
    parts = [_text(20, 30, f"{number}. {title}", size=14, weight="bold")]
    parts += SKETCHES[number]()
    y = TOP
    for line in lines:
        prose = line.startswith("\t")
        for part in _wrapped(re.sub(r" \d+/telnet", " 812/telnet", line.strip())):
            parts.append(_text(20, y, part, mono=not prose, colour=MUTED if prose else INK))
            y += LINE
    return "\n".join(parts), y


def _wrapped(text: str) -> list[str]:
    """Return the lines of a text; *TIME-WAIT* and its like stay in one line."""
    return textwrap.wrap(text, COLUMNS, break_on_hyphens=False) or [""]


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 15,
    weight: str = "normal",
    mono: bool = False,
    colour: str = INK,
    anchor: str = "start",
) -> str:
    family = "ui-monospace, 'DejaVu Sans Mono', monospace" if mono else "'DejaVu Sans', Verdana, sans-serif"
    return (
        f'<text x="{x}" y="{y}" font-family="{family}" font-size="{14 if mono else size}" font-weight="{weight}" '
        f'fill="{colour}" text-anchor="{anchor}" xml:space="preserve">{html.escape(text)}</text>'
    )


def _box(x: float, label: str, note: str, colour: str, *, dashed: bool = False) -> list[str]:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    place = f'x="{x}" y="75" width="130" height="58" rx="8"'
    return [
        f'<rect {place} fill="{PAPER}" stroke="{colour}" stroke-width="2"{dash}/>',
        _text(x + 65, 100, label, size=14, weight="bold", colour=colour, anchor="middle"),
        _text(x + 65, 119, note, size=13, colour=colour, anchor="middle"),
    ]


def _arrow(path: str, colour: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2" marker-end="url(#head)"{dash}/>'


def _loop() -> str:
    """Return an arrow from the client's box to itself."""
    return _arrow("M 55 75 C 40 38 155 38 142 73", CLIENT)


def _blocked() -> str:
    return _text(240, 110, "✕", size=24, weight="bold", colour=BAD, anchor="middle")


def _dead_port() -> Iterator[str]:
    yield from _box(30, "client", "source port: ?", CLIENT)
    yield from _box(320, "port 32246", "nobody listens", MUTED, dashed=True)
    yield _arrow("M 162 104 L 312 104", CLIENT, dashed=True)
    yield _text(237, 94, "connect", size=13, colour=CLIENT, anchor="middle")


def _self_connect() -> Iterator[str]:
    yield from _box(30, "client", "32246 → 32246", CLIENT)
    yield _loop()
    yield from _box(320, "port 32246", "nobody listens", MUTED, dashed=True)


def _one_socket() -> Iterator[str]:
    yield from _box(30, "one socket", "both ends: 32246", CLIENT)
    yield _loop()
    yield _text(180, 108, "ESTABLISHED, no listener", colour=CLIENT)


def _server_fails() -> Iterator[str]:
    yield from _self_connect_only()
    yield from _box(320, "server", "bind fails", BAD)
    yield _arrow("M 314 104 L 262 104", BAD)
    yield _blocked()


def _self_connect_only() -> Iterator[str]:
    yield from _box(30, "client", "32246 → 32246", CLIENT)
    yield _loop()


def _time_wait() -> Iterator[str]:
    yield from _box(30, "TIME-WAIT", "60 s, no process", CLIENT, dashed=True)
    yield from _box(320, "server", "bind fails", BAD)
    yield _arrow("M 314 104 L 262 104", BAD)
    yield _blocked()


def _guarded() -> Iterator[str]:
    yield from _box(30, "client, tailbite", "never 32246", CLIENT)
    yield from _box(320, "server", "listens on 32246", SERVER)
    yield _arrow("M 162 104 L 312 104", SERVER)
    yield _text(237, 94, "connected", size=13, colour=SERVER, anchor="middle")


SKETCHES: Final = {
    1: _dead_port,
    2: _self_connect,
    3: _one_socket,
    4: _server_fails,
    5: _time_wait,
    6: _guarded,
}

_HEAD = f"""<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" \
orient="auto-start-reverse"><path d="M 0 0 L 10 5 L 0 10 z" fill="context-stroke"/></marker></defs>
<rect width="100%" height="100%" rx="6" fill="{PAPER}" stroke="#cccccc"/>"""


def svg(content: str, height: int, description: str, style: str = "") -> str:
    """Return a whole SVG file; the description is its accessible name."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{html.escape(description)}">\n<title>{html.escape(description)}</title>\n'
        f"{style}{_HEAD}\n{content}\n</svg>\n"
    )


def animated(pictures: dict[int, str], where: str) -> str:
    """Return all acts in one file, each shown for some seconds; readers who want no motion see the last act."""
    total = SECONDS_PER_ACT * len(pictures)
    share = 100 / len(pictures)
    style = (
        "<style>.act{opacity:0;animation:show "
        f"{total}s infinite step-end}}@keyframes show{{0%{{opacity:1}}{share:.3f}%{{opacity:0}}}}"
        + "".join(f".a{n}{{animation-delay:{(n - 1) * SECONDS_PER_ACT}s}}" for n in pictures)
        + "@media (prefers-reduced-motion: reduce){.act{animation:none}.a6{opacity:1}}</style>\n"
    )
    groups = "\n".join(f'<g class="act a{number}">\n{content}\n</g>' for number, content in pictures.items())
    foot = _text(20, HEIGHT - 12, f"tailbite demo, {where}", size=12, colour=MUTED)
    return svg(f"{groups}\n{foot}", HEIGHT, "The six acts of tailbite demo, one after the other", style)


def texts_of(file: str) -> list[str]:
    """Return the texts of a picture with every number replaced by 0."""
    return [re.sub(r"\d[\d,.]*", "0", html.unescape(text)) for text in re.findall(r"<text[^>]*>([^<]*)<", file)]


def main() -> int:
    """Write the pictures, or compare them with a new run."""
    if TelnetClient.find() is None:
        print("telnet is not installed (Debian: inetutils-telnet)", file=sys.stderr)
        return 4
    enter_private_network()
    transcript = record_demo()
    facts = machine_facts()
    where = f"{facts['system']} {facts['kernel']}"
    pictures = {number: act_picture(number, title, lines) for number, title, lines in transcript.acts}
    files = {
        f"story-{n}.svg": svg(content, height, f"Act {n} of tailbite demo")
        for n, (content, height) in pictures.items()
    }
    files["story.svg"] = animated({number: content for number, (content, _) in pictures.items()}, where)
    stale = 0
    for name, text in files.items():
        file = FIGURES / name
        if "--check" in sys.argv:
            if not file.is_file() or sorted(texts_of(text)) != sorted(texts_of(file.read_text(encoding="utf-8"))):
                print(f"docs/figures/{name} differs from what the demo shows: run make story")
                stale = 1
            continue
        file.write_text(text, encoding="utf-8")
        print(f"wrote docs/figures/{name}")
    return stale


if __name__ == "__main__":
    sys.exit(main())
