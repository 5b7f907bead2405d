"""Reports are right by the tools that read them: an XML parser, tcpdump, a real browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import CI
from tailbite.audit import trap
from tailbite.audit.client import Client
from tailbite.audit.judge import judge
from tailbite.audit.records import (
    Allocator,
    BindAttempt,
    ConnectionToItself,
    Ending,
    Limits,
    Observation,
    Output,
    Recovery,
    StateSpan,
)
from tailbite.audit.report.evidence import folder_name, write_evidence
from tailbite.audit.report.junit import junit
from tailbite.audit.report.page import ReportOrigin, page
from tailbite.audit.verdict import Verdict, Word
from tailbite.audit.warden import audit

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from browser import open_browser
from site_check import AXE, check_in_browser

if TYPE_CHECKING:
    from collections.abc import Callable

PHASE = trap.phase("127.0.0.1", Allocator.CONNECT)
NASTY = "</pre><script>document.title='owned'</script>\x1b[31m\x00]]>&\ud800"


def verdict(name: str, hits: tuple[ConnectionToItself, ...] = (), *, dials: int = 1, said: bytes = b"") -> Verdict:
    recovery = Recovery(2.0, 5.0, None, 5.5, 6.0, 6.0)
    watched = Observation(
        phase=PHASE, control=True, duration=8.0, dials=dials, dialled=tuple(0.01 * n for n in range(dials)),
        self_connects=hits, states=(StateSpan("ESTABLISHED to itself", 0, 2), StateSpan("TIME-WAIT to itself", 2, 8)),
        bind=BindAttempt(8.0, False, True), exit_status=1, has_exited_at=3.0, held_at_end=True,
        output=Output(said, b"", len(said)),
    )  # fmt: skip
    recovering = Observation(PHASE, True, 8.0, dials=1, recovery=recovery)
    return judge(Client(name, (name, "{port}")), [watched, recovering])


VERDICTS = [
    verdict("immune"),
    verdict("holds", (ConnectionToItself(0.5, None, Ending.OPEN, "127.0.0.1", 9),)),
    verdict(
        "aborts <b>&amp;",
        tuple(ConnectionToItself(n / 100, n / 100 + 0.01, Ending.RESET, "::1", 0) for n in range(700)),
        dials=900,
    ),
    verdict("never", dials=0, said=NASTY.encode("utf-8", "surrogatepass")),
]


def test_junit_counts_failures_errors_and_passes() -> None:
    suite = ET.fromstring(junit(VERDICTS, Word.IMMUNE))
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "2",
        "errors": "1",
        "skipped": "0",
    }
    assert [[child.tag for child in case if child.tag != "system-out"] for case in suite] == [
        [],
        ["failure"],
        ["failure"],
        ["error"],
    ]
    lenient = ET.fromstring(junit(VERDICTS, Word.ABORTS))
    assert lenient.get("failures") == "1"


@settings(max_examples=40)
@given(st.binary(max_size=60), st.text(max_size=20))
def test_any_output_of_a_client_makes_well_formed_xml_and_html_without_its_markup(said: bytes, name: str) -> None:
    one = verdict(name or "x", said=said)
    ET.fromstring(junit([one], Word.IMMUNE))
    html = page([one], Word.IMMUNE)
    assert html.count("<script") == 0
    assert "\x00" not in html


def test_the_page_says_in_a_sentence_what_the_client_did_in_each_phase() -> None:
    html = page(VERDICTS, Word.IMMUNE)
    assert "The client dialled once, never connected to itself, and exited with 1." in html
    assert "The client dialled 900 times, connected to itself 700 times, and exited with 1." in html
    assert "The client never dialled the port and exited with 1." in html
    assert "The client dialled once, never connected to itself, and was still running at the end." in html
    assert "<p>It never dialled the port: " in html


CHECK = """
<script>
addEventListener("load", () => {
  const told = {
    title: document.title,
    rows: document.querySelectorAll("#matrix tbody tr").length,
    pictures: document.querySelectorAll("svg").length,
    loaded: performance.getEntriesByType("resource").length,
    wide: document.documentElement.scrollWidth > innerWidth,
    outside: 0, empty: 0, hidden: 0,
    dead: [...document.querySelectorAll("a[href^='#']")]
      .filter(a => !document.querySelector(a.getAttribute("href"))).length,
  };
  for (const svg of document.querySelectorAll("svg")) {
    const box = svg.viewBox.baseVal;
    for (const part of svg.querySelectorAll("text, rect, line")) {
      const b = part.getBBox();
      if (b.x < -1 || b.y < -1 || b.x + b.width > box.width + 1 || b.y + b.height > box.height + 1) told.outside++;
    }
    for (const bar of svg.querySelectorAll("rect")) if (!(bar.getBBox().width >= 2)) told.empty++;
    if (svg.getBoundingClientRect().height < 40) told.hidden++;
  }
  document.body.setAttribute("data-told", JSON.stringify(told));
});
</script>
"""


def in_chromium(program: str, file: Path, width: int) -> dict[str, Any]:
    """Load a page without a network, and return what the check found in it."""
    file.write_text(file.read_text(encoding="utf-8").replace("</body>", CHECK + "</body>"), encoding="utf-8")
    dom = subprocess.run(
        [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            f"--user-data-dir={file.parent / 'profile'}", f"--window-size={width},900", "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=240, check=True,
    ).stdout  # fmt: skip
    match = re.search(r'data-told="([^"]*)"', dom)
    assert match, dom[-500:]
    told: dict[str, Any] = json.loads(match.group(1).replace("&quot;", '"').replace("&amp;", "&"))
    return told


@pytest.mark.peers
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("width", [1200, 600])
def test_the_page_is_right_in_a_real_browser(width: int, tmp_path: Path, peer: Callable[[str], str]) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(VERDICTS, Word.IMMUNE), encoding="utf-8", errors="replace")
    told = in_chromium(peer("chromium"), file, width)
    assert told == {
        "title": "tailbite audit",
        "rows": 4,
        "pictures": 8,
        "loaded": 0,
        "wide": False,
        "outside": 0,
        "empty": 0,
        "hidden": 0,
        "dead": 0,
    }


@pytest.mark.peers
@pytest.mark.usefixtures("network")
def test_axe_finds_no_serious_fault_in_the_page_wide_and_narrow_light_and_dark(
    tmp_path: Path, peer: Callable[[str], str]
) -> None:
    if not AXE.is_file():
        (pytest.fail if CI else pytest.skip)("axe-core is not installed: npm install --prefix .peers axe-core")
    file = tmp_path / "page.html"
    origin = ReportOrigin("2026-11-25 19:40 UTC", "Linux 6.18", "tailbite audit -- x {port}")
    every = [*VERDICTS, *(Verdict(word.value, "1.0", word, "a reason", image="an image") for word in Word)]
    file.write_text(page(every, Word.IMMUNE, ["left out"], origin), encoding="utf-8", errors="replace")
    with open_browser(peer("chromium")) as browser:
        assert list(check_in_browser(browser, [file], AXE.read_text(encoding="utf-8"), None)) == []


@pytest.mark.peers
@pytest.mark.usefixtures("network")
def test_evidence_is_what_tcpdump_reads_and_what_was_observed(tmp_path: Path, peer: Callable[[str], str]) -> None:
    script = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2]))).close()"
    client = Client("a client/../with: a name", (sys.executable, "-c", script, "{host}", "{port}"))
    audit(
        client,
        Limits(dial=60, quick=True),
        keep=lambda seen, evidence: write_evidence(tmp_path, client.name, seen, evidence),
    )
    (place,) = tmp_path.iterdir()
    folder = place / "connect-127.0.0.1"
    assert sorted(file.name for file in folder.iterdir()) == [
        "lo.pcap",
        "observation.json",
        "output.txt",
        "sysctls.txt",
    ]
    shown = subprocess.run(
        [peer("tcpdump"), "-nn", "-r", folder / "lo.pcap"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    told = json.loads((folder / "observation.json").read_text())
    ends = f"127.0.0.1.{told['port']} > 127.0.0.1.{told['port']}"
    assert all(ends in line for line in shown)
    assert ["[S]" in shown[0], "[S.]" in shown[1], "[F.]" in shown[3]] == [True, True, True]
    assert told["connections_to_itself"][0]["ending"] == "closed"
    assert "net.ipv4.ip_local_port_range = 46884 46885\n" in (folder / "sysctls.txt").read_text()


@given(st.text())
def test_a_folder_of_evidence_lies_where_it_was_asked_for(name: str) -> None:
    folder = folder_name(name)
    assert folder not in ("", ".", "..")
    assert re.fullmatch(r"[A-Za-z0-9._-]+", folder)


def test_the_page_says_where_it_comes_from_and_has_captions_scopes_and_dark_mode() -> None:
    origin = ReportOrigin("2026-11-25 19:40 UTC", "Linux 6.18 <x86_64>", "tailbite audit --html 'a&b'")
    text = page([], Word.IMMUNE, origin=origin)
    assert "2026-11-25 19:40 UTC" in text
    assert "Linux 6.18 &lt;x86_64&gt;" in text
    assert "tailbite audit --html &#x27;a&amp;b&#x27;" in text
    assert "<caption>" in text
    assert text.count("<th ") == text.count('scope="col"') == 8
    assert "prefers-color-scheme: dark" in text
    assert text.count('class="scroll"') == text.count('class="scroll" tabindex="0"') == 1
