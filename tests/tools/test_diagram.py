"""The picture of the state machine is made from the diagram in the page."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from diagram import diagram_of_page, diagram_of_picture


def test_the_picture_shows_the_diagram_of_the_page() -> None:
    assert diagram_of_picture() == diagram_of_page(), "run make diagram"
