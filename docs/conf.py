"""Sphinx configuration of the documentation site: ``make docs``.

Warnings are errors. The site needs no network: fonts, styles and scripts are part of it.
"""

from __future__ import annotations

from tailbite._version import __version__

project = "tailbite"
copyright = "the tailbite developers"  # noqa: A001 - the name that Sphinx reads
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.intersphinx"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["data", "matrix.json"]
nitpicky = False
suppress_warnings = ["toc.empty_glob"]  # pages of other parts of the project may be missing in a checkout

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
intersphinx_mapping: dict[str, tuple[str, None]] = {}  # no request leaves the machine

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"

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
