"""Every situation the doctor knows is made for real where the kernel allows it; a healthy host has none of them."""

from __future__ import annotations

import contextlib
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.boot import empty_tree
from support.holders import Holder
from tailbite.core.ports import PortRange, PortSet
from tailbite.core.selection import Selection
from tailbite.host.explain import checkup as host_checkup
from tailbite.host.explain import doctor
from tailbite.host.explain.boot import boot_findings
from tailbite.host.explain.checkup import Checkup, check_host
from tailbite.host.explain.doctor import examine_kernel, examine_namespace, ports_to_free
from tailbite.host.explain.finding import Confidence, Severity
from tailbite.host.explain.risk import ports_at_risk
from tailbite.host.explain.subject import Service, Subject
from tailbite.host.see import namespaces
from tailbite.host.see.abilities import Ability, SocketAbilities, kernel_abilities, port_selection
from tailbite.host.see.records import Namespace, NamespaceKind, NotVisible
from tailbite.host.see.snapshot import Snapshot, Sysctl
from tailbite.host.sysctl.tree import read_tree
from tailbite.kernel.sysctl import read_ephemeral_range, write_ephemeral_range, write_reserved_ports, write_sysctl

if TYPE_CHECKING:
    from collections.abc import Iterator

EVEN, ODD = 50050, 50051
KEY = "net.ipv4.ip_local_reserved_ports"


@pytest.fixture(autouse=True)
def _able_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that has every ability, so that no finding is about the running one and every remedy is possible."""
    monkeypatch.setattr(host_checkup, "kernel_abilities", lambda: ())
    monkeypatch.setattr(host_checkup, "socket_abilities", lambda _: SocketAbilities())


def checkup(*services: Service, root: Path | None = None) -> Checkup:
    return check_host([namespaces.current_namespace()], services, root=root)


def codes(seen: Checkup) -> list[str]:
    return [one.code for one in seen.findings]


@contextlib.contextmanager
def listening(port: int, host: str = "127.0.0.1") -> Iterator[None]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, port))
        sock.listen()
        yield


@contextlib.contextmanager
def self_connected(port: int) -> Iterator[None]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))
        sock.connect(("127.0.0.1", port))
        yield


@pytest.mark.usefixtures("network")
def test_a_quiet_namespace_has_no_finding(tmp_path: Path) -> None:
    with listening(8080):
        seen = checkup(Service(8080), Service(8125), root=empty_tree(tmp_path))
    assert codes(seen) == []
    assert not seen.not_visible


@pytest.mark.usefixtures("network")
def test_a_self_connect_is_critical_and_names_its_owner_and_what_frees_the_port() -> None:
    with self_connected(EVEN):
        seen = checkup(Service(EVEN, "broker"))
        (one,) = seen.findings
    assert (one.code, one.severity, one.confidence) == ("TB101", Severity.CRITICAL, Confidence.CERTAIN)
    assert one.what.endswith("The port is that of broker.")
    assert [owner.pid for owner in one.owners] != []
    assert one.remedies[0].commands == (f"tailbite fix --kill {EVEN} --apply",)
    assert ports_to_free([one]) == PortSet.of([EVEN])


@pytest.mark.usefixtures("network")
def test_what_a_closed_self_connect_left_is_told_with_its_seconds() -> None:
    with self_connected(EVEN):
        pass
    (one,) = checkup(Service(EVEN)).findings
    assert one.code == "TB102"
    seconds = int(one.what.split(", for ")[1].split(" s")[0])
    assert 50 <= seconds <= 60


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("port", [EVEN, ODD])
def test_a_service_that_is_down_inside_the_range_is_at_risk_with_odds(port: int) -> None:
    """An even port can be hit by connect(), an odd one by a client that binds first: each says which."""
    (one,) = checkup(Service(port)).findings
    assert (one.code, one.severity, one.confidence) == ("TB109", Severity.WARNING, Confidence.CERTAIN)
    dials, binds = (fact.words for fact in one.facts)
    assert ("cannot happen" in dials, "cannot happen" in binds) == (port == ODD, port == EVEN)
    (subject,) = checkup(Service(port)).subjects
    assert ports_at_risk(subject) == PortSet.of([port])
    write_reserved_ports(PortSet.of([port]))
    assert codes(checkup(Service(port))) == []


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("source_chosen", "TB103"),
        ("source_chosen_time_wait", "TB104"),
        ("accepted_time_wait", "TB104"),
        pytest.param("bound", "TB105", marks=pytest.mark.needs("BOUND_SOCKETS_LISTED")),
        ("accepted", "TB111"),
    ],
)
def test_a_service_that_is_down_is_not_fine_while_something_else_holds_its_port(kind: str, code: str) -> None:
    """kubernetes#103375 and others: a connection has the port of the service as its source port."""
    with Holder(kind, "127.0.0.1", reuse=False).held(EVEN):
        found = [one for one in checkup(Service(EVEN, "broker")).findings if EVEN in one.ports]
        assert not any(EVEN in one.ports for one in checkup().findings)  # nobody said that it is a service's
    (one,) = found
    assert one.code == code
    assert one.what.endswith("The port is that of broker.")


@pytest.mark.usefixtures("network")
def test_a_listener_inside_the_range_is_told_once_whatever_its_addresses() -> None:
    with listening(EVEN), listening(EVEN, "::1"), listening(ODD):
        found = checkup(Service(ODD)).findings
        assert [(one.code, str(one.ports), one.confidence) for one in found] == [
            ("TB204", str(EVEN), Confidence.LIKELY),
            ("TB204", str(ODD), Confidence.CERTAIN),
        ]
        write_reserved_ports(PortSet.of([EVEN, ODD]))
        assert codes(checkup(Service(ODD))) == []
        write_reserved_ports(PortSet())
        write_ephemeral_range(PortRange(51000, 60999))
        assert codes(checkup(Service(ODD))) == []


@pytest.mark.usefixtures("network")
def test_very_many_servers_are_told_together_and_none_is_forgotten() -> None:
    ports = range(40000, 40300)
    with contextlib.ExitStack() as up:
        for port in ports:
            up.enter_context(listening(port))
        seen = checkup()
    (finding,) = seen.findings
    assert finding.ports == PortSet.of(ports) == ports_at_risk(seen.subjects[0])


@pytest.mark.usefixtures("network")
def test_ports_in_the_same_state_are_one_finding_and_states_are_told_apart() -> None:
    with listening(40010), listening(40011):
        found = checkup(*(Service(port) for port in range(39000, 41000)), Service(50000, "broker")).findings
    assert [(one.code, len(one.ports), one.what.split(" ")[0]) for one in found] == [
        ("TB109", 1998, "Services"),
        ("TB109", 1, "Broker"),
        ("TB204", 2, "Servers"),
    ]
    assert "39000-40009,40012-40999" in found[0].what


@pytest.mark.usefixtures("network")
def test_a_client_that_cannot_be_hit_is_not_said_to_be_at_risk() -> None:
    """No sentence denies the odds below it: who may be given the port is the client that has odds."""
    (even,) = checkup(Service(EVEN)).findings
    (odd,) = checkup(Service(ODD)).findings
    assert "and a client that retries may be given" in even.what
    assert "and a client that retries and binds before it connects may be given" in odd.what
    assert even.facts[0].value
    assert even.facts[1].value is odd.facts[0].value is None


@pytest.mark.usefixtures("network")
def test_a_remedy_that_would_leave_no_source_port_is_not_offered() -> None:
    write_ephemeral_range(PortRange(50000, 50009))
    (finding,) = checkup(*(Service(port) for port in range(50000, 50010))).findings
    assert "--reserve" not in str(finding.remedies)
    (finding,) = checkup(*(Service(port) for port in range(50000, 50009))).findings
    assert "--reserve 50000-50008" in str(finding.remedies)


@pytest.mark.usefixtures("network")
def test_another_program_on_the_port_of_a_named_service_is_told() -> None:
    """cloudfoundry/loggregator#20: rpc.statd had the port of the service that was expected there."""
    with listening(8125):
        (finding,) = checkup(Service(8125, "reverse_log_proxy")).findings
        assert checkup(Service(8125, "python")).findings == ()
        assert checkup(Service(8125, "the broker")).findings == ()  # a description is not compared
    assert (finding.code, finding.severity) == ("TB212", Severity.WARNING)
    assert "reverse_log_proxy is expected on port 8125, but " in finding.what


@pytest.mark.usefixtures("network")
def test_a_range_among_the_ports_of_services_is_a_notice() -> None:
    write_ephemeral_range(PortRange(9000, 65500))
    assert [(one.code, one.severity) for one in checkup().findings] == [("TB207", Severity.NOTICE)]


@pytest.mark.usefixtures("network")
def test_what_the_next_boot_forgets_and_what_a_later_file_overrides(tmp_path: Path) -> None:
    root = empty_tree(tmp_path)
    etc = root / "etc/sysctl.d"
    (etc / "10-app.conf").write_text(f"{KEY} = 8080,9090\n")
    (etc / "20-other.conf").write_text(f"{KEY} = 9090\n")
    write_reserved_ports(PortSet.parse("9090,7777"))
    lost, vain = checkup(root=root).findings
    assert (lost.code, vain.code) == ("TB205", "TB206")
    assert lost.what.startswith("Port 7777 is reserved now")
    assert vain.what.startswith("Port 8080 is reserved in /etc/sysctl.d/10-app.conf without effect")
    with listening(7777):
        assert checkup(root=root).findings[-1].severity is Severity.WARNING

    (etc / "20-other.conf").write_text(f"{KEY} = 9090 # the metrics\n")
    (refused,) = (one for one in checkup(root=root).findings if "refuses" in one.what)
    assert "Line 1 of /etc/sysctl.d/20-other.conf sets nothing" in refused.what
    assert "because of the blank ' ' behind '9090'" in refused.what
    assert f"as: {KEY} = 9090" in refused.remedies[0].text


@pytest.mark.usefixtures("network")
def test_lines_and_files_without_effect_are_told_with_the_line_that_was_meant(tmp_path: Path) -> None:
    """guild-operators#1200 and others: quotation marks, names that are nearly right, files that are not read."""
    root = empty_tree(tmp_path)
    etc = root / "etc/sysctl.d"
    (etc / "10-range.conf").write_text('net.ipv4.ip_local_port_range="1024 65534"\n')
    (etc / "20-name.conf").write_text("net.ipv4.ip_local_reserved_port = 8080\n")
    (etc / "30-other").write_text(f"{KEY} = 8080\n")
    (etc / "40-old.conf.bak").write_text(f"{KEY} = 8080\n")
    (etc / "README").write_text("nothing\n")
    found = {one.what: one for one in checkup(root=root).findings}
    assert {one.code for one in found.values()} == {"TB206"}
    quoted, misspelt, unread, backup = sorted(found, key=lambda what: re.findall(r"/(\d0)-", what))
    assert "because of the quotation mark" in quoted
    assert "blank" not in found[quoted].why.lower() + quoted
    assert "ip_local_port_range = 1024 65534" in found[quoted].remedies[0].text
    assert "'net.ipv4.ip_local_reserved_port', which is not a setting of the kernel" in misspelt
    assert "30-other sets source ports, but is not read at boot" in unread
    assert [found[each].severity for each in (unread, backup)] == [Severity.WARNING, Severity.NOTICE]


@pytest.mark.usefixtures("network")
def test_of_files_that_could_not_be_read_nothing_is_claimed_and_the_remedy_is_for_the_tree(tmp_path: Path) -> None:
    root = empty_tree(tmp_path / "an image")
    (root / "etc/sysctl.d/10-app.conf").write_text(f"{KEY} = 8080\n")
    (root / "etc/sysctl.d/20-other.conf").write_text(f"{KEY} = 9090\n")
    (root / "etc/sysctl.d/30-name.conf").write_text(f"{KEY}s = 9091\n")
    tree = read_tree(root)
    (subject,) = checkup().subjects
    vain, misspelt = boot_findings(subject, tree)
    assert vain.remedies[0].commands == (f"tailbite fix --reserve 8080 --root '{root}' --apply",)
    assert boot_findings(subject, replace(tree, not_visible=(NotVisible("70-x.conf", "not permitted"),))) == [
        misspelt
    ]


@pytest.mark.usefixtures("network")
def test_a_range_of_one_number_sets_the_lower_end_as_the_kernel_does(tmp_path: Path) -> None:
    root = empty_tree(tmp_path)
    (root / "etc/sysctl.d/10-range.conf").write_text("net.ipv4.ip_local_port_range = 40000\n")
    (one,) = checkup(root=root).findings
    assert "sets only the lower end of the ephemeral range, to 40000." in one.what
    assert "ip_local_port_range = 40000 60999" in one.remedies[0].text
    write_sysctl("ip_local_port_range", "40000")
    assert read_ephemeral_range() == PortRange(40000, 60999)


@pytest.mark.usefixtures("network")
def test_files_that_one_way_to_boot_does_not_read_are_told(tmp_path: Path) -> None:
    root = empty_tree(tmp_path / "root")
    (root / "etc/sysctl.conf").write_text("net.ipv4.ip_local_reserved_ports = 8080\n")
    (root / "etc/sysctl.d/50-ports.conf").write_text("# nothing\n")
    (root / "usr/lib/sysctl.d/50-ports.conf").write_text("net.ipv4.ip_local_reserved_ports = 9090\n")
    (root / "etc/sysctl.d/70-x.conf").write_text("net.ipv4.ip_local_reserved_ports: 9092\n")
    said = [one.what for one in checkup(root=root).findings]
    assert said == [
        (
            "Line 1 of /etc/sysctl.d/70-x.conf names net.ipv4.ip_local_reserved_ports and sets nothing: it is not of "
            "the form KEY = VALUE."
        ),
        (
            "Port 9090 is reserved in /usr/lib/sysctl.d/50-ports.conf without effect: another 50-ports.conf takes "
            "its place."
        ),
    ]
    (root / "usr/lib/systemd").mkdir()
    (root / "usr/lib/systemd/systemd-sysctl").touch()
    assert "/etc/sysctl.conf sets net.ipv4.ip_local_reserved_ports, but systemd does not read it at boot." in [
        one.what for one in checkup(root=root).findings
    ]
    (root / "etc/sysctl.d/99-sysctl.conf").symlink_to("../sysctl.conf")
    assert [one.what for one in checkup(root=root).findings] == said


def made_up(*sysctls: Sysctl) -> Subject:
    here = Namespace(1, NamespaceKind.OWN, "this namespace")
    return Subject(
        Snapshot(here, 0.0, PortRange(32768, 60999), PortSet(), sysctls, (), (), ()), services=(Service(EVEN),)
    )


def test_simultaneous_open_switched_off_makes_the_risk_a_notice() -> None:
    found = examine_namespace(made_up(Sysctl("tcp_simult_connect", "0")))
    assert [(one.code, one.severity) for one in found] == [("TB109", Severity.NOTICE), ("TB210", Severity.FINE)]
    assert "connected to itself" not in found[0].why
    assert [one.code for one in examine_namespace(made_up(Sysctl("tcp_simult_connect", "1")))] == ["TB109"]


@pytest.mark.parametrize(
    ("port", "client"),
    [
        (50008, "a client that retries may be given"),
        (50009, "a client that retries and binds before it connects may be given"),
        (50010, "no client is given"),  # the last of an odd number of ports: no search ends there
    ],
)
def test_a_service_that_is_down_and_a_server_name_the_same_client(port: int, client: str) -> None:
    subject = made_up()
    seen = replace(subject.seen, ephemeral=PortRange(50008, 50010))
    (down,) = examine_namespace(replace(subject, seen=seen, services=(Service(port),)))
    assert client in down.what
    assert down.severity is (Severity.NOTICE if client.startswith("no ") else Severity.WARNING)


def test_random_steps_change_the_odds_of_a_port_behind_taken_ones_alone() -> None:
    """As Linux 7.2 does with ip_local_port_step_width: parities stay, a port behind a block is one among many."""
    plain, steps = (made_up(*more) for more in ((), (Sysctl("ip_local_port_step_width", "1000"),)))
    assert examine_namespace(plain)[0].facts == examine_namespace(steps)[0].facts
    reserved = PortSet((PortRange(EVEN - 200, EVEN - 1),))
    behind, scattered = (
        examine_namespace(replace(subject, seen=replace(subject.seen, reserved=reserved)))[0].facts[0]
        for subject in (plain, steps)
    )
    assert float(str(scattered.value)) > 3 * float(str(behind.value))


def test_what_the_kernel_lacks_is_told_and_what_is_not_known_is_not() -> None:
    able = (
        Ability("IP_LOCAL_PORT_RANGE", "Linux 6.3", False, ""),
        Ability("SOCK_DESTROY", "CONFIG_INET_DIAG_DESTROY", False, ""),
        Ability("xt_bpf", "", None, ""),
    )
    assert [one.code for one in examine_kernel(made_up(), able)] == ["TB208", "TB209"]
    assert examine_kernel(made_up(), tuple(Ability(one.name, "", True, "") for one in able)) == []


@pytest.mark.usefixtures("network")
def test_this_kernel_s_abilities_agree_with_what_the_options_do() -> None:
    present = {one.name: one.present for one in kernel_abilities()}
    with socket.socket() as sock:
        try:
            sock.getsockopt(socket.IPPROTO_IP, 51)
            assert present["IP_LOCAL_PORT_RANGE"] is True
        except OSError:
            assert present["IP_LOCAL_PORT_RANGE"] is False
    assert present["SOCK_DESTROY"] in (True, False)


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.18.44-fc", Selection.STRIDES),
        ("5.18.0", Selection.STRIDES),
        ("5.17.1", Selection.BY_TWO),
        ("4.2.0-generic", Selection.BY_TWO),
        ("3.10.0-1160.el7", Selection.ONE_BY_ONE),
        ("unheard of", Selection.STRIDES),
    ],
)
def test_the_way_ports_are_drawn_goes_by_the_kernel_s_release(release: str, expected: Selection) -> None:
    assert port_selection(release) is expected


def test_every_finding_of_the_doctor_has_its_page() -> None:
    """The codes in its table are those it uses, and each page has the parts of a page."""
    source = Path(doctor.__file__).parent
    shared = {*doctor.HOLDS, "TB109"}
    old = {"TB201", "TB202", "TB203"}  # codes of 0.1, which --ignore still takes
    used = {code for file in source.glob("*.py") for code in re.findall(r'"(TB2\d\d)"', file.read_text())}
    assert (used - old) | shared == set(re.findall(r"TB\d{3}", doctor.__doc__ or ""))
    for code in sorted(used):
        page = (Path(__file__).parents[3] / f"docs/findings/{code}.md").read_text()
        assert page.startswith(f"# {code}: ")
        parts = re.findall("^## (\\w+)", page, re.MULTILINE)
        assert parts == ([] if code in old else ["What", "Why", "Remedy", "Before"])
