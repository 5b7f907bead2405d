"""The check of built pages finds what it promises to find."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from browser import open_browser  # noqa: E402 - in tools/
from site_check import AXE, check_files, check_in_browser  # noqa: E402 - in tools/

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = """<!doctype html><html lang="en"><head><title>A page</title>
<meta name="viewport" content="width=device-width"></head>
<body><main><h1 id="top">A page</h1>
<p>Text and <a href="other.html#there">a link</a>.</p></main></body></html>"""
OTHER = (
    '<!doctype html><html lang="en"><head><title>Other</title></head><body><h1 id="there">There</h1></body></html>'
)


def write_pages(folder: Path, **pages: str) -> list[Path]:
    files = []
    for name, text in pages.items():
        files.append(folder / f"{name}.html")
        files[-1].write_text(text, encoding="utf-8")
    return files


def test_good_pages_pass(tmp_path: Path) -> None:
    assert list(check_files(write_pages(tmp_path, page=GOOD, other=OTHER))) == []


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("other.html#there", "none.html", "there is no such file"),
        ("other.html#there", "other.html#nowhere", "there is no such anchor"),
        ("other.html#there", "#nowhere", "there is no such anchor"),
        ("</main>", '<img src="https://example.net/a.png" alt="a">', "from another machine"),
        ("</head>", '<link rel="stylesheet" href="//example.net/a.css"></head>', "from another machine"),
        ("</main>", '<img src="missing.png" alt="a">', "does not exist"),
    ],
)
def test_a_fault_in_a_page_is_found(before: str, after: str, fault: str, tmp_path: Path) -> None:
    faults = list(check_files(write_pages(tmp_path, page=GOOD.replace(before, after), other=OTHER)))
    assert len(faults) == 1
    assert fault in faults[0]


@pytest.mark.peers
@pytest.mark.usefixtures("network")
def test_the_browser_finds_wide_pages_and_unreadable_text(tmp_path: Path, peer: Callable[[str], str]) -> None:
    """Beside a good page that passes in all four settings."""
    chromium = peer("chromium")
    if not AXE.is_file():
        is_ci = os.environ.get("CI", "").lower() == "true"
        (pytest.fail if is_ci else pytest.skip)("axe-core is not installed: npm install --prefix .peers axe-core")
    wide = GOOD.replace("<p>", '<p style="width:900px">')
    pale = GOOD.replace("<p>", '<p style="color:#ddd;background:#fff">')
    files = write_pages(tmp_path, page=GOOD, wide=wide, pale=pale, other=OTHER)[:3]
    with open_browser(chromium) as page:
        faults = list(check_in_browser(page, files, AXE.read_text(encoding="utf-8"), None))
    assert not [fault for fault in faults if fault.startswith("page.html")]
    assert any(fault.startswith("wide.html (390 pixels") and "pixels wide" in fault for fault in faults)
    assert any(fault.startswith("pale.html") and "color-contrast" in fault for fault in faults)
    assert not any(fault.startswith("wide.html (1280") and "pixels wide" in fault for fault in faults)


@pytest.mark.timeout(900)
def test_reference_pages_match_the_product() -> None:
    """All of docs/reference, and docs/findings/index.md."""
    done = subprocess.run(
        [sys.executable, "tools/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout + done.stderr
