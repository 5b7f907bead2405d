"""Values that a tree of sysctl.d files sets at boot, before and after an edit: asked of systemd, procps and Linux."""

from __future__ import annotations

import functools
import operator
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.boot import READERS, SYSTEMD, boot, empty_tree
from tailbite.core.ports import PortSet
from tailbite.host.explain.boot import boot_findings
from tailbite.host.explain.subject import Subject
from tailbite.host.see.namespaces import current_namespace
from tailbite.host.see.snapshot import take_snapshot
from tailbite.host.sysctl.text import edits_between, settle_setting, value_at_boot
from tailbite.host.sysctl.tree import ENCODING, read_tree
from tailbite.host.sysctl.value import RESERVED
from tailbite.kernel.sysctl import read_reserved_ports, write_sysctl

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT = PortSet.parse("7")  # what is reserved before the boot, so that "nothing was set" shows

keys = st.sampled_from(
    [
        RESERVED.key,
        RESERVED.key,
        f"-{RESERVED.key}",
        "net/ipv4/ip_local_reserved_ports",
        "net.ipv4.ip_local_reserved_p*",
        "net.ipv4.ip_local_fallback",
        f"- {RESERVED.key}",
        f"--{RESERVED.key}",
        f"{RESERVED.key}.",
        f"{RESERVED.key}\f",
        "net.*",
        "*",
        "net.*.ip_local_reserved_ports",
    ]
)
values = st.sampled_from(
    ["8080", "1-3,8", "", "50051", "9 # comment", "5,", "3-1", "010", "1, 2", "80\f", "80\r,81", "80\0,81"]
)
lines = st.one_of(
    st.tuples(st.sampled_from(["", "  ", "\t"]), keys, st.sampled_from(["=", " = ", "\t="]), values).map("".join),
    st.sampled_from(
        [
            "",
            "# a comment = 5",
            "; another",
            f"# {RESERVED.key} = 99",
            "no assignment",
            f"-{RESERVED.key}",
            f"- {RESERVED.key}",
        ]
    ),
)
texts = st.tuples(st.lists(lines, max_size=4), st.sampled_from(["\n", "\r\n"]), st.booleans()).map(
    lambda parts: parts[1].join(parts[0]) + parts[1] * parts[2]
)
places = st.one_of(
    st.tuples(
        st.sampled_from(["etc", "run", "usr/local/lib", "usr/lib"]),
        st.sampled_from(
            ["10-a.conf", "50-b.conf", "60-tailbite.conf", "70-c.conf", "99-z.conf", "z.conf", "README", ".h.conf"]
        ),
    ).map(lambda place: f"{place[0]}/sysctl.d/{place[1]}"),
    st.just("etc/sysctl.conf"),
)
not_files = st.sampled_from(["nowhere.conf", "z.conf", ".", "../sysctl.conf", "10-a.conf"]).map(
    lambda to: f"link to {to}"
)
trees = st.dictionaries(places, st.one_of(texts, texts, texts, not_files), max_size=5)


def plant(root: Path, tree: dict[str, str], linked: bool) -> None:
    for place, text in tree.items():
        if text.startswith("link to ") and not place.endswith("60-tailbite.conf"):  # of which `fix` refuses links
            (root / place).symlink_to(text.removeprefix("link to "))
        else:
            (root / place).write_bytes(text.encode(**ENCODING))
    if linked and "etc/sysctl.conf" in tree:
        (root / "etc/sysctl.d/99-sysctl.conf").symlink_to("../sysctl.conf")


def write(root: Path, edits: dict[str, str]) -> None:
    for target, text in edits.items():
        file = root / target.lstrip("/")
        assert not file.is_symlink()  # an edit names the file itself, and nothing outside the root
        file.write_bytes(text.encode(**ENCODING))


def reserve(root: Path, ports: PortSet) -> dict[str, str]:
    before = read_tree(root).orders
    after = settle_setting(before, RESERVED, lambda there: functools.reduce(operator.or_, there, ports))
    return {path: text for path, (_, text) in edits_between(before, after).items()}


def booted(root: Path, reader: str) -> PortSet:
    write_sysctl("ip_local_reserved_ports", f"{DEFAULT}\n")
    boot(root, reader)
    return read_reserved_ports()


def predicted(root: Path, reader: str) -> PortSet | None:
    (order,) = (order for order in read_tree(root).orders if order.reader == reader)
    return value_at_boot(order, RESERVED)


@pytest.fixture(params=list(READERS))
def reader(request: pytest.FixtureRequest, peer: Callable[[str], str]) -> str:
    peer(SYSTEMD if request.param == "systemd-sysctl" else "sysctl")
    return str(request.param)


@pytest.mark.peers
@pytest.mark.usefixtures("network")
@pytest.mark.timeout(480)  # each example starts the programs four times, which takes a busy machine seconds
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees, linked=st.booleans())
def test_we_know_what_a_boot_will_set_and_our_edit_makes_it_set_the_ports_too(
    reader: str, tree: dict[str, str], linked: bool
) -> None:
    """For any files: the prediction is what the program sets, before the edit and after it."""
    wanted = PortSet.parse("32246,50051-50053")
    with tempfile.TemporaryDirectory() as folder:
        root = empty_tree(Path(folder))
        plant(root, tree, linked)
        before = [predicted(root, any_reader) for any_reader in READERS]
        assert booted(root, reader) == (DEFAULT if predicted(root, reader) is None else predicted(root, reader))

        write(root, reserve(root, wanted))

        assert booted(root, reader) == predicted(root, reader)
        assert predicted(root, reader) == PortSet.of(
            part for ports in (*before, wanted) if ports is not None for part in ports.ranges
        )
        assert reserve(root, wanted) == {}


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (
            f"{RESERVED.key} = 8080\n".encode("utf-16"),
            "Line 1 of /etc/sysctl.d/10-a.conf sets nothing: the file is UTF-16 text.",
            "save /etc/sysctl.d/10-a.conf as UTF-8, without a byte order mark",
        ),
        (
            f"vm.swappiness = 1\r{RESERVED.key} = 8080\r".encode(),
            (
                "Port 8080 is reserved in line 1 of /etc/sysctl.d/10-a.conf for one program only: sysctl --system "
                "reads that line differently."
            ),
            f"write line 1 of /etc/sysctl.d/10-a.conf as: {RESERVED.key} = 8080, with a line feed at its end",
        ),
        (
            b"echo 8080 > /proc/sys/net/ipv4/ip_local_reserved_ports\n",
            (
                f"Line 1 of /etc/sysctl.d/10-a.conf names {RESERVED.key} and sets nothing: it is not of the form "
                "KEY = VALUE."
            ),
            f"write line 1 of /etc/sysctl.d/10-a.conf as: {RESERVED.key} = 8080",
        ),
        (
            b"cat /proc/sys/net/ipv4/ip_local_reserved_ports\n",
            (
                f"Line 1 of /etc/sysctl.d/10-a.conf names {RESERVED.key} and sets nothing: it is not of the form "
                "KEY = VALUE."
            ),
            f"write line 1 of /etc/sysctl.d/10-a.conf as: {RESERVED.key} = VALUE",
        ),
        (
            b"net.core.ip_local_reserved_ports = 8080, 8082\n",
            (
                "Line 1 of /etc/sysctl.d/10-a.conf sets 'net.core.ip_local_reserved_ports', which is not a setting "
                f"of the kernel; {RESERVED.key} is."
            ),
            f"write line 1 of /etc/sysctl.d/10-a.conf as: {RESERVED.key} = 8080,8082",
        ),
    ],
)
def test_a_line_without_effect_is_told_with_its_reason_and_the_corrected_line(
    tmp_path: Path, content: bytes, what: str, remedy: str
) -> None:
    root = empty_tree(tmp_path)
    (root / "etc/sysctl.d/10-a.conf").write_bytes(content)
    (finding,) = boot_findings(Subject(take_snapshot(current_namespace())), read_tree(root))
    assert (finding.code, finding.what) == ("TB206", what)
    assert [one.text for one in finding.remedies] == [remedy]
