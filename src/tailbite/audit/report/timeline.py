"""One phase as a picture (SVG): dials, connections to itself, socket states, a server's attempts. Pure."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from tailbite.audit.records import Ending

if TYPE_CHECKING:
    from tailbite.audit.records import Observation

__all__ = ["timeline"]

_WIDTH = 720
_LABEL = 150
_ROW = 18
_MOST = 400
"""Marks a row can show before they are one grey band."""

_COLOURS = {
    "LISTEN": "#2e7d32",
    "ESTABLISHED": "#1565c0",
    "ESTABLISHED to itself": "#c62828",
    "TIME-WAIT to itself": "#ef6c00",
    "TIME-WAIT": "#ef6c00",
}
_ENDINGS = {Ending.OPEN: "#c62828", Ending.CLOSED: "#ef6c00", Ending.RESET: "#f9a825"}


class _Picture:
    def __init__(self, seconds: float) -> None:
        self._scale = (_WIDTH - _LABEL - 20) / max(seconds, 0.001)
        self._parts: list[str] = []
        self._rows = 0

    def x(self, at: float) -> float:
        return round(_LABEL + max(0.0, at) * self._scale, 2)

    def row(self, label: str) -> int:
        top = self._rows * _ROW + 4
        self._rows += 1
        self._parts.append(f'<text x="{_LABEL - 8}" y="{top + 12}" text-anchor="end">{escape(label)}</text>')
        self._parts.append(f'<line x1="{_LABEL}" y1="{top + 15}" x2="{_WIDTH - 20}" y2="{top + 15}" class="grid"/>')
        return top

    def bar(self, top: int, start: float, end: float, colour: str, title: str) -> None:
        left, right = self.x(start), self.x(end)
        self._parts.append(
            f'<rect x="{left}" y="{top + 2}" width="{max(2.0, round(right - left, 2))}" height="11" fill="{colour}">'
            f"<title>{escape(title)}</title></rect>"
        )

    def tick(self, top: int, at: float, colour: str, title: str) -> None:
        self._parts.append(
            f'<line x1="{self.x(at)}" y1="{top + 1}" x2="{self.x(at)}" y2="{top + 14}" stroke="{colour}" '
            f'stroke-width="1.5"><title>{escape(title)}</title></line>'
        )

    def axis(self, seconds: float) -> None:
        top = self._rows * _ROW + 4
        for part in range(5):
            at = seconds * part / 4
            label = f"{at:.3g} s" if seconds >= 1 else f"{at * 1000:.3g} ms"
            anchor = "end" if part == 4 else "middle"
            self._parts.append(f'<text x="{self.x(at)}" y="{top + 12}" text-anchor="{anchor}">{label}</text>')
        self._rows += 1

    def svg(self, label: str) -> str:
        height = self._rows * _ROW + 8
        return (
            f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img" '
            f'aria-label="{escape(label, quote=True)}">{"".join(self._parts)}</svg>'
        )


def timeline(seen: Observation) -> str:
    """Return the SVG of one phase."""
    picture = _Picture(seen.duration)
    top = picture.row("dials")
    for at in seen.dialled[:_MOST]:
        picture.tick(top, at, "currentColor", f"SYN to port {seen.phase.port} at {at:.4f} s")
    top = picture.row("to itself")
    for hit in seen.self_connects[:_MOST]:
        end = seen.duration if hit.end is None else hit.end
        picture.bar(
            top,
            hit.start,
            end,
            _ENDINGS[hit.ending],
            f"{hit.host}, {hit.start:.4f} to {end:.4f} s, {hit.ending.value}",
        )
    if any(hit.sent for hit in seen.self_connects):
        top = picture.row("echoed bytes")
        for hit in seen.self_connects[:_MOST]:
            if hit.sent:
                picture.tick(top, hit.start, "#6a1b9a", f"{hit.sent} bytes came back")
    for state in dict.fromkeys(span.state for span in seen.states[:_MOST]):
        top = picture.row(state)
        for span in seen.states[:_MOST]:
            if span.state == state:
                title = f"{state}, {span.start:.3f} to {span.end:.3f} s"
                picture.bar(top, span.start, span.end, _COLOURS.get(state, "#78909c"), title)
    _server(picture, seen)
    if seen.has_exited_at is not None:
        top = picture.row("client exits")
        picture.tick(top, seen.has_exited_at, "currentColor", f"exit status {seen.exit_status}")
    picture.axis(seen.duration)
    return picture.svg(f"{seen.phase.name}: what happened when")


def _server(picture: _Picture, seen: Observation) -> None:
    if seen.bind is not None:
        top = picture.row("server binds?")
        for works, how in ((seen.bind.plain, "plain"), (seen.bind.reuse, "with SO_REUSEADDR")):
            picture.tick(top, seen.bind.at, "#2e7d32" if works else "#c62828", f"{how}: {'yes' if works else 'no'}")
    recovery = seen.recovery
    if recovery is None:
        return
    end = recovery.began + recovery.gave_up_after
    for label, after in (("server, plain", recovery.plain_after), ("server, reuse", recovery.reuse_after)):
        if recovery.real_server:
            continue
        top = picture.row(label)
        up = end if after is None else recovery.began + after
        picture.bar(top, recovery.began, up, "#c62828", f"kept down until {up:.2f} s")
        if after is not None:
            picture.bar(top, up, end, "#2e7d32", f"could start after {after:.2f} s")
    top = picture.row("client on server")
    if recovery.served_after is not None:
        picture.tick(
            top, recovery.began + recovery.served_after, "#2e7d32", f"it listens after {recovery.served_after:.2f} s"
        )
    if recovery.recovered_after is not None:
        at = recovery.began + recovery.recovered_after
        picture.bar(top, at, end, "#1565c0", f"connected after {recovery.recovered_after:.2f} s")
