"""The sums of a report are those of its hosts, whatever their order."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tailbite.core.ports import PortSet
from tailbite.fleet.merge import Merger
from tailbite.fleet.records import FleetReport, HostReport, SelfConnectOn

if TYPE_CHECKING:
    import random

ports = st.integers(32768, 32780)


@st.composite
def hosts(draw: st.DrawFn) -> list[HostReport]:
    made = []
    for number in range(draw(st.integers(1, 12))):
        name, group = f"h{number}", draw(st.sampled_from(["", "web", "db"]))
        exposed = PortSet.of(draw(st.sets(ports, max_size=5)))
        sockets = [
            SelfConnectOn(name, group, f"127.0.0.1:{p}", p, "ESTABLISHED") for p in draw(st.sets(ports, max_size=2))
        ]
        programs = (("grpc", exposed),) if exposed and draw(st.booleans()) else ()
        complete, examined = draw(st.booleans()), draw(st.booleans())
        taken = draw(st.floats(0, 1e9))
        made.append(HostReport(name, group, taken, tuple(sockets), exposed, programs, complete, examined))
    return made


def merged(reports: list[HostReport]) -> FleetReport:
    merger = Merger()
    for report in reports:
        merger.add(report)
    return merger.report()


@given(hosts(), st.randoms(use_true_random=False))
def test_sums(reports: list[HostReport], rng: random.Random) -> None:
    report = merged(reports)
    assert report.hosts == len(reports) == sum(group.hosts for group in report.groups)
    assert len(report.self_connects) == sum(len(one.self_connects) for one in reports)
    assert report.incomplete == sum(not one.is_complete for one in reports)
    assert (report.oldest, report.newest) == (min(r.taken for r in reports), max(r.taken for r in reports))
    counts = Counter(port for one in reports for port in one.exposed)
    assert {port: row.hosts for row in report.exposures for port in row.ports} == counts
    assert [row.hosts for row in report.exposures] == sorted((row.hosts for row in report.exposures), reverse=True)
    for group in report.groups:
        members = [one for one in reports if one.group == group.name]
        needed = {p for one in members for p in one.exposed} | {s.port for one in members for s in one.self_connects}
        assert group.reserve == PortSet.of(needed)
    shuffled = reports[:]
    rng.shuffle(shuffled)
    again = merged(shuffled)
    assert (again.exposures, again.groups) == (report.exposures, report.groups)


def test_neighbouring_ports_in_the_same_situation_are_one_row() -> None:
    one = HostReport(
        "a", "", 1, exposed=PortSet.parse("40000-40009"), programs=(("x", PortSet.parse("40000-40004")),)
    )
    rows = merged([one]).exposures
    assert [(str(row.ports), row.programs) for row in rows] == [("40000-40004", ("x",)), ("40005-40009", ())]


def test_no_host_at_all() -> None:
    report = merged([])
    assert (report.hosts, report.groups, report.exposures) == (0, (), ())
