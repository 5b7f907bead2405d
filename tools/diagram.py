"""Generator of docs/figures/state-machine.svg, from the Mermaid diagram in docs/persistent.md: ``make diagram``.

It needs Chromium, and mermaid in .peers (``npm install --prefix .peers mermaid``). The page keeps the diagram as
text, which tests/reconnect/test_machine.py compares with the machine; the site shows the picture. The picture holds
the text that it was made from, so a test notices when one of them changes.
"""

from __future__ import annotations

import html
import json
import os
import re
import sys
from pathlib import Path
from typing import Final

__all__ = ["PAGE", "PICTURE", "diagram_of_page", "diagram_of_picture"]

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs/persistent.md"
PICTURE: Final = ROOT / "docs/figures/state-machine.svg"
MERMAID: Final = Path(os.environ.get("TAILBITE_PEERS", ROOT / ".peers")) / "node_modules/mermaid/dist/mermaid.min.js"
_OPTIONS: Final = {
    "startOnLoad": False,
    "theme": "neutral",
    "fontFamily": "DejaVu Sans, sans-serif",
    "htmlLabels": False,  # a picture in a page shows no HTML
    "flowchart": {"htmlLabels": False},
    "deterministicIds": True,
}


def diagram_of_page() -> str:
    """Return the text of the diagram in the page."""
    (text,) = re.findall(r"^```mermaid\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return str(text)


def diagram_of_picture() -> str:
    """Return the text that the picture was made from."""
    (text,) = re.findall(r"<desc>(.*?)</desc>", PICTURE.read_text(encoding="utf-8"), re.DOTALL)
    return html.unescape(text)


def main() -> int:
    """Draw the picture; return 4 if a program is missing."""
    from browser import DESKTOP, find_chromium, open_browser

    from tailbite.kernel.namespace import enter_private_network

    program = find_chromium()
    if program is None or not MERMAID.is_file():
        print("this needs Chromium, and mermaid in .peers: npm install --prefix .peers mermaid")
        return 4
    text = diagram_of_page()
    enter_private_network()
    with open_browser(program) as page:
        page.show_page("about:blank", DESKTOP, dark=False)
        page.evaluate(MERMAID.read_text(encoding="utf-8") + "; true")
        page.evaluate(f"mermaid.initialize({json.dumps(_OPTIONS)}); true")
        svg = page.evaluate(f"mermaid.render('machine', {json.dumps(text)}).then(made => made.svg)")
    described = re.sub(r"(<svg[^>]*>)", lambda found: f"{found[1]}<desc>{html.escape(text)}</desc>", svg, count=1)
    PICTURE.write_text(described + "\n", encoding="utf-8")
    print(f"wrote {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
