"""The page is complete, escapes what others named, and loads nothing."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from tailbite.core.ports import PortSet
from tailbite.fleet.page import fleet_page
from tailbite.fleet.records import Exposure, FleetReport, HostGroup, SelfConnectOn, Unread

REPORT = FleetReport(
    hosts=2000,
    incomplete=3,
    examined=1990,
    oldest=1_795_600_000,
    newest=1_795_633_428,
    self_connects=(SelfConnectOn("h<1>", "web", "127.0.0.1:32246", 32246, "ESTABLISHED", "<script>", "a&b.service"),),
    exposures=(Exposure(PortSet.parse("50051-50052"), 1200, ("grpc",)), Exposure(PortSet.parse("32246"), 1, ())),
    groups=(HostGroup("web", 2000, 1, 1200, PortSet.parse("32246,50051-50052")),),
    unread=(Unread(Path("x.json"), "not valid JSON"),),
)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)
        self.attributes += attrs


def test_everything_is_on_it_and_escaped() -> None:
    text = fleet_page(REPORT, version="1.2", now=1_795_640_000)
    for part in (
        "2000 hosts",
        "h&lt;1&gt;",
        "&lt;script&gt;",
        "a&amp;b.service",
        "tailbite 1.2",
        "2026-11-25",
        "1200",
    ):
        assert part in text
    assert "tailbite fix --reserve 32246,50051-50052 --apply" in text
    assert "script" not in Tags(text).opened


def test_it_loads_nothing() -> None:
    tags = Tags(fleet_page(REPORT, version="1.2", now=0))
    assert not {"src", "href", "srcset"} & {name for name, _ in tags.attributes}
    assert not {"link", "img", "iframe", "script"} & set(tags.opened)


def test_tables_have_captions_and_scopes() -> None:
    tags = Tags(fleet_page(REPORT, version="1.2", now=0))
    assert tags.opened.count("table") == tags.opened.count("caption") == 4
    assert tags.opened.count("th") == sum(name == "scope" for name, _ in tags.attributes)


def test_an_empty_report_says_so() -> None:
    text = fleet_page(FleetReport(1, 0, 1, 1, 1, (), (), ()), version="1.2", now=0)
    assert "No host has a self-connect." in text
    assert "No exposed service was found." in text
