"""Figure of the odds: probability of a self-connect over time, for each kind of client and system."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tailbite.core.duration import spell_duration
from tailbite.core.odds import Odds, odds
from tailbite.core.selection import Selection
from tailbite.lab.style import DARK, INK, MID, caption, figure, save, tidy

if TYPE_CHECKING:
    from pathlib import Path

    from tailbite.core.ports import PortRange, PortSet

__all__ = ["draw_odds"]

_TIMES = (1e-3, 1.0, 60.0, 3600.0, 86400.0, 604800.0, 31557600.0)
_NAMES = ("1 ms", "1 s", "1 minute", "1 hour", "1 day", "1 week", "1 year")


def draw_odds(
    port: int, ephemeral: PortRange, reserved: PortSet, every: float, clients: int, stem: Path
) -> tuple[Path, Path]:
    """Draw ``stem.svg`` and ``stem.png``: the probability over time, for each way of choosing source ports.

    Raises:
        OSError: a file cannot be written.
    """
    kinds: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("connect(), Linux since 5.18", {}, {"color": DARK, "ls": "-", "lw": 2.4}),
        ("bind() first, Linux", {"binds_first": True}, {"color": MID, "ls": "--"}),
        ("Linux before 4.2", {"selection": Selection.ONE_BY_ONE}, {"color": INK, "ls": "-.", "lw": 1.3}),
        ("chosen at random (BSD, macOS)", {"selection": Selection.RANDOM}, {"color": "#777777", "ls": ":"}),
    ]
    curves = [(name, odds(port, ephemeral, reserved, **kind), look) for name, kind, look in kinds]
    times = [curve.seconds(0.999, every=every, clients=clients) for _, curve, _ in curves if curve.is_possible]
    end = max(times, default=3600.0)
    with figure(4.6, 4.3) as (drawing, (axes,)):
        soon = [curve.seconds(0.002, every=every, clients=clients) for _, curve, _ in curves if curve.is_possible]
        at = np.geomspace(min(soon, default=end / 1e4), end, 700)
        for name, curve, look in curves:
            label = name if curve.is_possible else f"{name}: never"
            axes.plot(at, [_within(curve, float(x), every, clients) for x in at], label=label, **look)
        axes.set_xscale("log")
        axes.set_xlim(at[0], end)
        axes.set_ylim(-0.02, 1.02)
        ticks = [(time, name) for time, name in zip(_TIMES, _NAMES, strict=True) if at[0] <= time <= end]
        axes.set_xticks([time for time, _ in ticks], [name for _, name in ticks])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
        axes.set_ylabel("probability of a self-connect by then")
        axes.set_xlabel("time since the first attempt (logarithmic)")
        pace = f"every {spell_duration(every)}{_crowd(clients)}, range {ephemeral}"
        axes.set_title(f"Self-connects of a client that dials port {port}\n{pace}")
        tidy(axes)
        axes.grid(True, axis="x")
        axes.legend(fontsize=9, loc="upper left")
        caption(drawing, "tailbite lab odds: the model, which tailbite lab loop\ncompares with the kernel")
        return save(drawing, stem)


def _within(curve: Odds, seconds: float, every: float, clients: int) -> float:
    return curve.probability_within(seconds, every=every, clients=clients)


def _crowd(clients: int) -> str:
    return "" if clients == 1 else f", {clients} clients"
