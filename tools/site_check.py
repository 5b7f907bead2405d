"""Check of built pages: ``python tools/site_check.py FOLDER`` or ``FILE.html``.

Always: every internal link and anchor leads somewhere, and no page loads anything from another machine. With
``--browser``: in headless Chromium at desktop and phone width, dark and light, no page is wider than the window, none
requests anything from elsewhere, and axe-core reports no serious finding. ``--screenshots DIR`` stores pictures.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from browser import Page

__all__ = ["check_files", "check_in_browser"]

ROOT: Final = Path(__file__).resolve().parent.parent
AXE: Final = Path(os.environ.get("TAILBITE_PEERS", ROOT / ".peers")) / "node_modules/axe-core/axe.min.js"
_LOADED: Final = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
_GRAVE: Final = ("serious", "critical")
_AXE_CALL: Final = """
axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(
  each => ({id: each.id, impact: each.impact, help: each.help, nodes: each.nodes.slice(0, 3).map(n => n.html)})))
"""


@dataclass
class Document(HTMLParser):
    """Links, anchors and loaded files of one page."""

    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collect what this tag refers to."""
        values = {name: value or "" for name, value in attributes}
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in _LOADED and values.get(_LOADED[tag]):
            self.loaded.append(values[_LOADED[tag]])
        if tag == "link" and values.get("rel") in ("stylesheet", "preload", "icon", "preconnect"):
            self.loaded.append(values.get("href", ""))


def check_files(files: list[Path]) -> Iterator[str]:
    """Yield a sentence for each dead link, and for each file that a page loads from elsewhere or does not find."""
    documents = {}
    for file in files:
        documents[file.resolve()] = document = Document()
        document.feed(file.read_text(encoding="utf-8"))
    for file, document in documents.items():
        for address in document.loaded:
            parts = urlsplit(address)
            if parts.scheme not in ("", "data") or parts.netloc:
                yield f"{file.name} loads {address} from another machine"
            elif not parts.scheme and not (file.parent / unquote(parts.path)).exists():
                yield f"{file.name} loads {address}, which does not exist"
        for link in document.links:
            if (fault := _dead(file, link, documents)) is not None:
                yield f"{file.name} links to {link}: {fault}"


def _dead(file: Path, link: str, documents: dict[Path, Document]) -> str | None:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None if parts.scheme in ("http", "https", "mailto") else f"{parts.scheme}: is not a web address"
    target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    if not target.exists():
        return "there is no such file"
    if parts.fragment and target in documents and unquote(parts.fragment) not in documents[target].anchors:
        return "there is no such anchor"
    return None


def check_in_browser(page: Page, files: list[Path], axe: str, screenshots: Path | None) -> Iterator[str]:
    """Yield a sentence for each page that is too wide, requests something from elsewhere, or fails axe-core."""
    from browser import DESKTOP, PHONE

    for file in files:
        for size, dark in ((DESKTOP, False), (DESKTOP, True), (PHONE, False), (PHONE, True)):
            where = f"{file.name} ({size[0]} pixels, {'dark' if dark else 'light'})"
            page.show_page(file.resolve().as_uri(), size, dark=dark)
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > size[0]:
                yield f"{where}: the page is {width} pixels wide"
            page.evaluate(axe + "; true")
            for found in page.evaluate(_AXE_CALL):
                if found["impact"] in _GRAVE:
                    yield f"{where}: {found['impact']} {found['id']}: {found['help']}: {found['nodes'][0]}"
            if screenshots is not None:
                name = f"{file.parent.name}-{file.stem}-{size[0]}-{'dark' if dark else 'light'}.png"
                page.save_screenshot(screenshots / name)
    for address in page.requests:
        if urlsplit(address).scheme not in ("file", "data", "about", "blob"):
            yield f"a page requested {address}"


def main() -> int:
    """Check the pages that the arguments name; return 1 if a check failed, 4 if the browser is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a folder with HTML pages, or one page")
    parser.add_argument("--browser", action="store_true", help="also look at the pages in Chromium")
    parser.add_argument("--only", action="append", default=[], help="with --browser: only pages of this name")
    parser.add_argument("--screenshots", type=Path, help="with --browser: folder for pictures of the pages")
    options = parser.parse_args()
    files = [options.path] if options.path.is_file() else sorted(options.path.rglob("*.html"))
    faults = list(check_files(files))
    if options.browser:
        from browser import find_chromium, open_browser

        from tailbite.kernel.namespace import enter_private_network

        program = find_chromium()
        if program is None or not AXE.is_file():
            print("the browser check needs Chromium, and axe-core in .peers (npm install --prefix .peers axe-core)")
            return 4
        chosen = [file for file in files if not options.only or file.stem in options.only]
        if options.screenshots:
            options.screenshots.mkdir(parents=True, exist_ok=True)
        enter_private_network()
        with open_browser(program) as page:
            faults += check_in_browser(page, chosen, AXE.read_text(encoding="utf-8"), options.screenshots)
    for fault in faults:
        print(fault)
    print(f"{len(files)} pages, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
