"""Sphinx configuration of the documentation site: ``make docs``.

Warnings are errors. The site needs no network: fonts, styles and scripts are part of it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tailbite._version import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "tailbite"
copyright = "the tailbite developers"  # noqa: A001 - the name that Sphinx reads
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.intersphinx"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["data", "matrix.json"]
nitpicky = False

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
intersphinx_mapping: dict[str, tuple[str, None]] = {}  # no request leaves the machine

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"

highlight_language = "none"
html_theme = "furo"
html_title = "tailbite"
html_static_path = ["_static"]
html_css_files = ["tailbite.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1f4e79",
        "color-brand-content": "#1f4e79",
        "color-foreground-muted": "#595959",
    },
    "dark_css_variables": {
        "color-brand-primary": "#8fc1f0",
        "color-brand-content": "#8fc1f0",
        "color-foreground-muted": "#a8a8a8",
    },
    "footer_icons": [],
}


def setup(app: Sphinx) -> None:
    """Add what the pages need: diagrams as pictures, and tables of contents without patterns that match nothing."""
    app.connect("source-read", _drop_empty_patterns)
    app.connect("source-read", _show_diagrams)
    app.connect("build-finished", _complete_accessibility)


def _drop_empty_patterns(app: Sphinx, name: str, source: list[str]) -> None:
    if name == "index":
        lines = source[0].splitlines()
        source[0] = "\n".join(line for line in lines if not line.endswith("*") or _new_pages(app, line, lines))


def _show_diagrams(app: Sphinx, name: str, source: list[str]) -> None:
    """Show the picture that tools/diagram.py made of the Mermaid text, which Sphinx cannot draw."""
    if name == "persistent":
        source[0] = re.sub(r"^```mermaid\n.*?^```$", _PICTURE, source[0], flags=re.DOTALL | re.MULTILINE)


_ALTERNATIVE = (
    "State diagram of a loop. IDLE leads to CONNECTING, VERIFYING and CONNECTED; a failure leads to WAITING; "
    "a fatal error, a limit or close() leads to ENDED."
)
_PICTURE = f"""\
:::{{container}} wide
```{{image}} figures/state-machine.svg
:alt: {_ALTERNATIVE}
```
:::"""


def _new_pages(app: Sphinx, pattern: str, listed: list[str]) -> set[str]:
    folder = Path(app.srcdir)
    return {file.relative_to(folder).with_suffix("").as_posix() for file in folder.glob(f"{pattern}.md")} - set(
        listed
    )


def _complete_accessibility(app: Sphinx, error: Exception | None) -> None:
    """Give headings of the menu a level, and make everything that scrolls sideways reachable by keyboard."""
    if error is not None or app.builder.format != "html":
        return
    for file in Path(app.outdir).rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        text = text.replace('<p class="caption" role="heading">', '<p class="caption" role="heading" aria-level="2">')
        text = text.replace("<pre>", '<pre tabindex="0">').replace(
            '<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'
        )
        text = text.replace('<div class="wide ', '<div tabindex="0" class="wide ')
        file.write_text(text, encoding="utf-8")
