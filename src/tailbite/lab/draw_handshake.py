"""Figure of the handshakes: a self-connect, closed and reset, beside an ordinary connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailbite.lab.diagrams import explain_segment
from tailbite.lab.handshake import ConnectionEnding
from tailbite.lab.style import DARK, INK, MID, caption, figure, save

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from tailbite.lab.handshake import Scene, SegmentStep

__all__ = ["draw_handshake"]

_FAR = 1.5
_ARROW = {"arrowstyle": "-|>", "mutation_scale": 11, "shrinkA": 0, "shrinkB": 0}


def draw_handshake(scenes: list[Scene], machine: str, stem: Path) -> tuple[Path, ...]:
    """Draw each scene as a figure of its own, narrow enough for a phone: ``stem.svg``, ``stem-2.svg``, ... and PNG.

    Raises:
        OSError: a file cannot be written.
    """
    paths: list[Path] = []
    for number, scene in enumerate(scenes, 1):
        longest = len(scene.steps)
        with figure(4.6, 2.1 + 0.78 * longest) as (drawing, (axes,)):
            axes.set_title(_title(scene))
            axes.set_xlim(-0.56, _FAR + 0.56)
            axes.set_ylim(-longest - 0.75, 0.75)
            axes.axis("off")
            (_folded if scene.is_folded else _ladder)(axes, scene)
            caption(drawing, f"Captured on lo, port {scene.port}; sequence numbers relative.\n{machine}")
            paths += save(drawing, stem if number == 1 else stem.with_name(f"{stem.name}-{number}"))
    return tuple(paths)


def _title(scene: Scene) -> str:
    if not scene.is_folded:
        return "An ordinary connection: client and server"
    if scene.ending is ConnectionEnding.CLOSE:
        return "A self-connect, closed: TIME-WAIT is left"
    return "A self-connect, reset: nothing is left"


def _lifeline(axes: Axes, x: float, name: str, state: str, end: float) -> None:
    axes.plot([x, x], [0.15, end], color=INK, lw=1.2)
    axes.text(x, 0.5, name, ha="center", va="center", fontsize=10, fontweight="bold", color=INK)
    axes.text(x, 0.28, state, ha="center", va="center", fontsize=9, color=INK)


def _state(axes: Axes, x: float, y: float, state: str, *, left: bool) -> None:
    axes.text(x + (-0.04 if left else 0.04), y, state, ha="right" if left else "left", va="center", fontsize=9)


def _text(step: SegmentStep) -> str:
    return step.segment.replace("><", " ").strip("<>")


def _folded(axes: Axes, scene: Scene) -> None:
    """Draw one lifeline; each segment leaves it and returns to it."""
    end = -len(scene.steps) - 0.1
    _lifeline(axes, 0.0, "one socket, both ends", "CLOSED", end)
    for number, step in enumerate(scene.steps):
        out, back = -number - 0.2, -number - 0.62
        axes.plot([0.0, _FAR, _FAR], [out, out, back], color=MID, lw=1.3)
        axes.annotate("", (0.0, back), (_FAR, back), arrowprops={**_ARROW, "color": MID, "lw": 1.3})
        axes.text(0.05, out - 0.21, _text(step), va="center", fontsize=8.8, color=INK)
        _state(axes, 0.0, out, step.before, left=True)
        _state(axes, 0.0, back, step.after, left=True)
        if explain_segment(step) is not None and step.duplicate is not None:
            block = f"D-SACK\n{step.duplicate[0]}-{step.duplicate[1]}"
            axes.text(_FAR + 0.04, (out + back) / 2, block, va="center", fontsize=9)
    left = "nothing is left" if scene.left is None else f"{scene.left} is left\non {scene.port} <-> {scene.port}"
    axes.text(0.0, end - 0.1, left, ha="center", va="top", fontsize=10, fontweight="bold")


def _ladder(axes: Axes, scene: Scene) -> None:
    """Draw two lifelines."""
    end = -len(scene.steps) - 0.1
    _lifeline(axes, 0.0, "client", "CLOSED", end)
    _lifeline(axes, _FAR, "server", "LISTEN", end)
    for number, step in enumerate(scene.steps):
        y = -number - 0.3
        start, stop = (0.0, _FAR) if step.sender == 0 else (_FAR, 0.0)
        axes.annotate("", (stop, y - 0.3), (start, y), arrowprops={**_ARROW, "color": DARK, "lw": 1.3})
        axes.text(_FAR / 2, y + 0.08, _text(step), ha="center", va="center", fontsize=8.8, color=INK)
        _state(axes, start, y, step.before, left=step.sender == 0)
        _state(axes, stop, y - 0.3, step.after, left=step.sender == 1)
    if scene.left is not None:
        left = f"{scene.left} is left\non the client's port"
        axes.text(_FAR / 2, end - 0.1, left, ha="center", va="top", fontsize=10, fontweight="bold")
