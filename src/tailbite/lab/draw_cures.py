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
    with figure(8.2, 1.9 + 0.42 * len(summaries), "ab", sharey=True, width_ratios=[2.1, 1]) as (
        drawing,
        (down, price),
    ):
        drawing.suptitle("How long a restarting server is kept down by its clients", x=0.01, ha="left", fontsize=13)
        places = list(range(len(summaries)))
        _draw_outages(down, summaries, places)
        _draw_costs(price, summaries, places)
        for axes in (down, price):
            tidy(axes, grid="x")
            axes.tick_params(axis="y", length=0)
        down.set_yticks(places, [_name(summary) for summary in summaries])
        for label, summary in zip(down.get_yticklabels(), summaries, strict=True):
            label.set_fontweight("bold" if summary.strategy in _TAILBITE else "normal")
        down.invert_yaxis()
        settings = seen.settings
        caption(
            drawing,
            "Hatched: self-connects happen. Plain: they are prevented. Bold: by tailbite.\n"
            f"{settings.clients} clients, {settings.restarts} restarts, {settings.attempts:,} connects per outage; "
            f"{machine}",
        )
        return save(drawing, stem)


def _name(summary: Summary) -> str:
    return f"tailbite: {summary.strategy}" if summary.strategy in _TAILBITE else summary.strategy


def _draw_bars(axes: Axes, summaries: list[Summary], places: list[int], widths: list[float]) -> None:
    bars = axes.barh(places, widths, height=0.62, color=LIGHT, edgecolor=DARK, linewidth=1)
    for bar, summary in zip(bars, summaries, strict=True):
        if summary.strategy not in _PREVENTING:
            bar.set(hatch="///", facecolor="white", edgecolor=MID)


def _draw_outages(axes: Axes, summaries: list[Summary], places: list[int]) -> None:
    worst = max((summary.down for summary in summaries if summary.down is not None), default=1.0)
    end = 1.9 * max(worst, 1.0)
    widths = [end if summary.down is None else summary.down if summary.failed else 0.0 for summary in summaries]
    axes.set_title("Time without the server, worst restart")
    axes.set_xlabel("seconds")
    _draw_bars(axes, summaries, places, widths)
    axes.set_xlim(0, end)
    for place, width, summary in zip(places, widths, summaries, strict=True):
        if summary.down is None:
            # An arrow beyond the axis: the outage has no end of its own.
            axes.annotate("", (1.03 * end, place), (end, place), annotation_clip=False, arrowprops=_ENDLESS)
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            axes.text(0.5 * end, place, _outcome(summary), va="center", ha="center", fontsize=9, color=INK, bbox=box)
        else:
            axes.text(width + 0.015 * end, place, _outcome(summary), va="center", color=INK, fontsize=9)


_ENDLESS = {"arrowstyle": "-|>", "color": MID, "lw": 2, "shrinkA": 0, "shrinkB": 0}


def _outcome(summary: Summary) -> str:
    if summary.down is None:
        return f"no end: until the client is killed ({summary.failed} of {summary.restarts} starts failed)"
    if not summary.failed:
        return "0: every start succeeds at once"
    return f"{summary.down:.0f} s ({summary.failed} of {summary.restarts} starts failed)"


def _draw_costs(axes: Axes, summaries: list[Summary], places: list[int]) -> None:
    axes.set_title("Cost of a connect")
    axes.set_xlabel("times an unguarded one")
    widths = [summary.cost or 0.0 for summary in summaries]
    _draw_bars(axes, summaries, places, widths)
    end = 1.45 * max([1.0, *widths])
    axes.set_xlim(0, end)
    for place, width, summary in zip(places, widths, summaries, strict=True):
        text = "" if summary.cost is None else f"x{summary.cost:.2f}"
        axes.text(width + 0.015 * end, place, text, va="center", color=INK, fontsize=9)
