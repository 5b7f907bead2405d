"""The cells of docs/kernels.md in the order of the page: what is run on each kernel."""

from __future__ import annotations

from kernels import cells_explain, cells_prevent, cells_see

__all__ = ["CELLS"]

CELLS = (("demo", cells_explain.demo), *cells_prevent.CELLS, *cells_see.CELLS, *cells_explain.CELLS)
