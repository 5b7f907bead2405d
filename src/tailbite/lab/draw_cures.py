"""Figure of the strategies: time without the server, failed starts, and cost of a connect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailbite.lab.strategies import STRATEGIES
from tailbite.lab.style import DARK, INK, LIGHT, MID, caption, figure, save, tidy

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from tailbite.lab.cures import Cures, Summary

__all__ = ["draw_cures"]


def draw_cures(seen: Cures, machine: str, stem: Path) -> tuple[Path, Path]:
    """Draw ``stem.svg`` and ``stem.png``.

    Raises:
        OSError: a file cannot be written.
    """
    summaries = seen.summaries()
    height = 1.9 + 0.36 * len(summaries)
    with figure(9.5, height, "abc", sharey=True, width_ratios=[2.2, 1, 1.1]) as (drawing, (down, failed, price)):
        places = list(range(len(summaries)))
        _down(down, summaries, places)
        _failed(failed, summaries, places)
        _price(price, summaries, places)
        for axes in (down, failed, price):
            tidy(axes, grid="x")
            axes.tick_params(axis="y", length=0)
        down.set_yticks(places, [summary.strategy for summary in summaries])
        down.invert_yaxis()
        settings = seen.settings
        caption(
            drawing,
            f"{settings.clients} clients, {settings.restarts} restarts, {settings.attempts:,} connects per outage. "
            f"Hatched: self-connects happen; plain: prevented. {machine}",
        )
        return save(drawing, stem)


def _bars(axes: Axes, summaries: list[Summary], places: list[int], widths: list[float]) -> None:
    prevents = {strategy.name for strategy in STRATEGIES if strategy.prevents}
    bars = axes.barh(places, widths, height=0.62, color=LIGHT, edgecolor=DARK, linewidth=1)
    for bar, summary in zip(bars, summaries, strict=True):
        if summary.strategy not in prevents:
            bar.set(hatch="///", facecolor="white", edgecolor=MID)


def _label(axes: Axes, places: list[int], widths: list[float], texts: list[str]) -> None:
    end = axes.get_xlim()[1]
    for place, width, text in zip(places, widths, texts, strict=True):
        axes.text(width + 0.015 * end, place, text, va="center", color=INK, fontsize=9)


def _down(axes: Axes, summaries: list[Summary], places: list[int]) -> None:
    worst = max((summary.down for summary in summaries if summary.down is not None), default=1.0)
    end = 1.25 * max(worst, 1.0)
    widths = [end if summary.down is None else summary.down if summary.failed else 0.0 for summary in summaries]
    axes.set_title("Server kept down, worst restart")
    axes.set_xlabel("seconds")
    _bars(axes, summaries, places, widths)
    axes.set_xlim(0, 1.22 * end)
    _label(axes, places, widths, [summary.kept_down for summary in summaries])


def _failed(axes: Axes, summaries: list[Summary], places: list[int]) -> None:
    restarts = max(summary.restarts for summary in summaries)
    axes.set_title("Starts that failed")
    axes.set_xlabel(f"of {restarts}")
    widths = [float(summary.failed) for summary in summaries]
    _bars(axes, summaries, places, widths)
    axes.set_xlim(0, 1.25 * restarts)
    _label(axes, places, widths, [str(summary.failed) for summary in summaries])


def _price(axes: Axes, summaries: list[Summary], places: list[int]) -> None:
    axes.set_title("Cost of a connect")
    axes.set_xlabel("times the naive one")
    widths = [summary.cost or 0.0 for summary in summaries]
    _bars(axes, summaries, places, widths)
    axes.set_xlim(0, 1.4 * max([1.0, *widths]))
    _label(axes, places, widths, ["" if summary.cost is None else f"x{summary.cost:.2f}" for summary in summaries])
