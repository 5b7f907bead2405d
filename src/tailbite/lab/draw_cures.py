"""Figure of the strategies: time without the server after a restart, and cost of a connect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailbite.lab.strategies import STRATEGIES
from tailbite.lab.style import DARK, INK, LIGHT, MID, caption, figure, save, tidy

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from tailbite.lab.cures import Cures, Summary

__all__ = ["draw_cures"]

_TAILBITE = {strategy.name for strategy in STRATEGIES if strategy.is_tailbite}
_PREVENTING = {strategy.name for strategy in STRATEGIES if strategy.prevents}


def draw_cures(seen: Cures, machine: str, stem: Path) -> tuple[Path, Path]:
    """Draw ``stem.svg`` and ``stem.png``.

    Raises:
        OSError: a file cannot be written.
    """
    summaries = seen.summaries()
    with figure(4.6, 1.7 + 0.58 * len(summaries)) as (drawing, (axes,)):
        drawing.suptitle("How long clients keep a restarting server down", x=0.01, ha="left", fontsize=11)
        places = list(range(len(summaries)))
        _draw_outages(axes, summaries, places)
        tidy(axes, grid="x")
        axes.set_yticks([])
        axes.set_ylim(len(summaries) - 0.4, -0.75)
        settings = seen.settings
        caption(
            drawing,
            "Bold: tailbite. Connect: cost of one, beside that of an unguarded client.\n"
            f"{settings.clients} clients, {settings.restarts} restarts, {settings.attempts:,} connects per outage;\n"
            f"{machine}",
        )
        return save(drawing, stem)


def _name(summary: Summary) -> str:
    return f"tailbite: {summary.strategy}" if summary.strategy in _TAILBITE else summary.strategy


def _draw_bars(axes: Axes, summaries: list[Summary], places: list[int], widths: list[float]) -> None:
    bars = axes.barh(places, widths, height=0.4, color=LIGHT, edgecolor=DARK, linewidth=1)
    for bar, summary in zip(bars, summaries, strict=True):
        if summary.strategy not in _PREVENTING:
            bar.set(hatch="///", facecolor="white", edgecolor=MID)


def _draw_outages(axes: Axes, summaries: list[Summary], places: list[int]) -> None:
    worst = max((summary.down for summary in summaries if summary.down is not None), default=1.0)
    end = 1.9 * max(worst, 1.0)
    widths = [end if summary.down is None else summary.down if summary.failed else 0.0 for summary in summaries]
    axes.set_title("Time without the server, worst restart", fontsize=10)
    axes.set_xlabel("seconds")
    _draw_bars(axes, summaries, places, widths)
    axes.set_xlim(0, 1.05 * end)
    for place, width, summary in zip(places, widths, summaries, strict=True):
        _label(axes, place, end, summary)
        if summary.down is None:
            # An arrow at the end of the bar: the outage has no end of its own.
            axes.annotate("", (1.05 * end, place), (end, place), annotation_clip=False, arrowprops=_ENDLESS)
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            axes.text(0.5 * end, place, _outcome(summary), va="center", ha="center", fontsize=9, color=INK, bbox=box)
        else:
            axes.text(width + 0.015 * end, place, _outcome(summary), va="center", color=INK, fontsize=9)


_ENDLESS = {"arrowstyle": "-|>", "color": MID, "lw": 2, "shrinkA": 0, "shrinkB": 0}


def _label(axes: Axes, place: int, end: float, summary: Summary) -> None:
    """Write the strategy's name above its bar, and the cost of a connect at the right end of that line."""
    weight = "bold" if summary.strategy in _TAILBITE else "normal"
    axes.text(0.015 * end, place - 0.27, _name(summary), va="bottom", fontsize=9, color=INK, fontweight=weight)
    if summary.cost is not None:
        cost = f"connect x{summary.cost:.2f}"
        axes.text(1.05 * end, place - 0.27, cost, va="bottom", ha="right", fontsize=9, color=INK)


def _outcome(summary: Summary) -> str:
    if summary.down is None:
        return f"no end: until the client is killed ({summary.failed} of {summary.restarts} starts failed)"
    if not summary.failed:
        effect = "prevented" if summary.strategy in _PREVENTING else "happen, and end at once"
        return f"0: every start succeeds; self-connects {effect}"
    return f"{summary.down:.0f} s ({summary.failed} of {summary.restarts} starts failed)"
