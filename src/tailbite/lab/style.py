"""Common style of all figures: readable in grey, and identical files from identical data.

Series differ in line style, hatch and grey level, not in colour alone. SVG ids are salted with a constant, and no
file has a date.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any, Final

from tailbite._files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DARK", "INK", "LIGHT", "MID", "caption", "figure", "save", "tidy"]

INK = "#1a1a1a"
DARK = "#1f4e79"
MID = "#c05a12"
LIGHT = "#c9d6e4"
_GRID = "#dddddd"

_RULES: Final[Any] = {  # Any: the type stubs want one literal type of all keys
    "font.family": "DejaVu Sans",  # part of matplotlib, so it is the same everywhere
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "hatch.linewidth": 0.7,
    "figure.dpi": 100,
    "savefig.dpi": 144,
    "svg.hashsalt": "tailbite",
    "svg.fonttype": "path",
}


@contextlib.contextmanager
def figure(width: float, height: float, mosaic: str = "a", **layout: Any) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield a figure in the common style, and its axes in the order of their letters; sizes in inches."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    with mpl.rc_context(_RULES):
        drawing, axes = pyplot.subplot_mosaic(mosaic, figsize=(width, height), layout="constrained", **layout)
        try:
            yield drawing, [axes[letter] for letter in sorted(axes)]
        finally:
            pyplot.close(drawing)


def tidy(axes: Axes, *, grid: str | None = "y") -> None:
    """Keep the grid lines of one direction only."""
    axes.grid(False)
    if grid is not None:
        axes.grid(True, axis="y" if grid == "y" else "x")


def caption(drawing: Figure, text: str) -> None:
    """Add a line below the figure: where it was measured."""
    drawing.supxlabel(text, fontsize=8, color="#555555", x=0.01, ha="left")


def save(drawing: Figure, stem: Path) -> tuple[Path, Path]:
    """Write ``stem.svg`` and ``stem.png``.

    Raises:
        OSError: a file cannot be written.
    """
    svg, png = io.BytesIO(), io.BytesIO()
    drawing.savefig(svg, format="svg", metadata={"Date": None, "Creator": "tailbite"})
    drawing.savefig(png, format="png", metadata={"Software": None})
    paths = stem.with_name(stem.name + ".svg"), stem.with_name(stem.name + ".png")
    for path, data in zip(paths, (svg, png), strict=True):
        write_atomically(path, data.getvalue())
    return paths
