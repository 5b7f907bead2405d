"""Figure of a loop: waits beside the model, strides of the source port, and parity."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from tailbite.lab.fit import expected_odds, fit_model, waits_of
from tailbite.lab.style import DARK, INK, LIGHT, MID, caption, figure, save, tidy

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from tailbite.lab.loop import ExperimentSettings, LoopTally

__all__ = ["draw_loop"]


def draw_loop(settings: ExperimentSettings, tallies: list[LoopTally], machine: str, stem: Path) -> tuple[Path, Path]:
    """Draw a loop's record as ``stem.svg`` and ``stem.png``.

    Raises:
        OSError: a file cannot be written.
    """
    with figure(4.6, 9, "a;b;c", height_ratios=[1.4, 1, 1]) as (drawing, (waits, strides, parity)):
        _waits(waits, settings, tallies)
        _strides(strides, tallies)
        _parity(parity, settings, tallies)
        attempts = sum(tally.attempts for tally in tallies)
        caption(
            drawing,
            f"{attempts:,} connects to port {settings.port} of this host,\nrange {settings.ephemeral}; {machine}",
        )
        return save(drawing, stem)


def _waits(axes: Axes, settings: ExperimentSettings, tallies: list[LoopTally]) -> None:
    model, waits = expected_odds(settings), waits_of(tallies)
    axes.set_title("Attempts from one self-connect to the next")
    axes.set_xlabel("attempts")
    axes.set_ylabel("share of self-connects")
    tidy(axes)
    if model.law is None or not waits:
        never = "the kernel never chooses this port" if model.law is None else "fewer than two self-connects"
        axes.text(0.5, 0.5, never, transform=axes.transAxes, ha="center", va="center")
        axes.set_yticks([])
        return
    law = model.law
    end = min(max(waits), 6 * model.between)
    at = np.linspace(0, end, 2400)
    axes.plot(
        at, [1 - law.survival_between(float(x)) for x in at], color=MID, ls="-", lw=3.4, alpha=0.55, label="model"
    )
    axes.step(
        [0, *waits], np.arange(len(waits) + 1) / len(waits), where="post", color=INK, lw=1.1, label="kernel, measured"
    )
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1.02)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.legend(loc="lower right")
    if (seen := fit_model(settings, tallies)) is not None:
        lines = [
            f"{seen.waits:,} waits, mean {seen.mean:,.0f} (model {seen.model_mean:,.0f})",
            f"Kolmogorov-Smirnov p = {seen.p_value:.2f}",
        ]
        if seen.lap_chance is not None and seen.model_lap_chance is not None:
            lines.insert(1, f"a lap hits with probability {seen.lap_chance:.3f} (model {seen.model_lap_chance:.3f})")
        axes.text(0.985, 0.30, "\n".join(lines), transform=axes.transAxes, ha="right", va="bottom", fontsize=9)


def _strides(axes: Axes, tallies: list[LoopTally]) -> None:
    strides: Counter[int] = sum((tally.strides for tally in tallies), Counter())
    total = strides.total() or 1
    # Other programs that use the same sequence cause a few larger strides.
    shown = sorted(stride for stride, times in strides.items() if stride > 0 and times > 0.002 * total)
    shown = shown or list(range(2, 17, 2))
    axes.set_title("Stride of the source port")
    axes.set_xlabel("ports from one attempt to the next")
    axes.set_ylabel("share of attempts")
    tidy(axes)
    axes.bar(shown, [strides[stride] / total for stride in shown], width=1.4, color=LIGHT, edgecolor=DARK)
    axes.set_xticks(shown)
    if sum(strides[stride] for stride in shown) < 0.5 * total:
        axes.text(
            0.5,
            0.85,
            "no fixed strides: ports are chosen independently",
            transform=axes.transAxes,
            ha="center",
            fontsize=9,
        )


def _parity(axes: Axes, settings: ExperimentSettings, tallies: list[LoopTally]) -> None:
    even, odd = (sum(getattr(tally, name) for tally in tallies) for name in ("even", "odd"))
    axes.set_title("Parity of the source ports")
    axes.set_ylabel("attempts, million")
    tidy(axes)
    bars = axes.bar(
        ["even", "odd"], [even / 1e6, odd / 1e6], width=0.55, color=[LIGHT, LIGHT], edgecolor=DARK, hatch=["", "//"]
    )
    axes.bar_label(bars, [f"{even:,}", f"{odd:,}"], padding=2, fontsize=9)
    axes.margins(y=0.18)
    axes.set_xlabel(
        f"the low end of the range, {settings.ephemeral.low}, is {'odd' if settings.ephemeral.low % 2 else 'even'}"
    )
