"""A refused line is explained by the character that is wrong, and the corrected line is one that the kernel takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.boot import boot, empty_tree
from tailbite.core.ports import PortRange, PortSet
from tailbite.host.change.plan import plan_boot_changes
from tailbite.host.sysctl.mistakes import (
    lost_lines,
    mistake_in_range,
    mistake_in_reserved,
    ports_meant,
)
from tailbite.host.sysctl.text import ConfigFile
from tailbite.host.sysctl.tree import read_tree
from tailbite.host.sysctl.value import range_value, reserved_value
from tailbite.kernel.sysctl import read_reserved_ports, write_sysctl

if TYPE_CHECKING:
    from collections.abc import Callable

SYSCTLS = Path("/proc/sys/net/ipv4")
RESERVED_KEY, RANGE_KEY = "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_local_port_range"
RESERVED = [
    ("55000, 57314", "the blank ' ' behind '55000,'", "55000,57314"),
    ("55000 # x", "the blank", "55000"),
    ("55000# x", "the comment '#' behind '55000'", "55000"),
    ('"8080,9090"', "the quotation mark '\"' at its beginning", "8080,9090"),
    ("1024 15999", "the blank", "1024,15999"),
    ("8080\\", "the backslash", "8080"),
    ("8080:8090", "the colon", "8080-8090"),
    ("8080;9090", "the semicolon ';' behind '8080': ports are separated by commas alone", "8080,9090"),
    ("8080; 9090-9092;", "the semicolon ';'", "8080,9090-9092"),
    ("8080;web", "the comment ';'", "8080"),
    ("8080 ;9090", "the blank", "8080"),
    ("70000", "70000 is not a port", None),
    ("8090-8080", "8090-8080 begins with the higher port", "8080-8090"),
    ("8080--8090", "'8080--8090' is not a port", "8080,8090"),
    ("http", "the character 'h'", None),
    ("50000\u201350010", "the dash '\u2013' behind '50000'", "50000-50010"),
    ("50000..50010", "the character '.'", "50000-50010"),
    ("50000 to 50010", "the blank", "50000-50010"),
    ("8080\u00a0", "the no-break space", "8080"),
    ("= 8080", "the character '='", "8080"),
    ("\u0663", "the character", None),
    ("0x1F90 , 9090", "the blank", "8080,9090"),
    ("55_000", "the character '_'", None),
    ("55.000", "the character '.'", None),
    ("0, 8080", "the blank", "8080"),
    ("tcp/8080", "the character 't'", "8080"),
    ("8080.", "the character '.'", "8080"),
]
RANGE = [
    ('"1024 65534"', "the quotation mark '\"' at its beginning: values have no quotation marks", "1024 65534"),
    ("1024-65534", "'-': the two ports are separated by a blank", "1024 65534"),
    ("1024,65534", "','", "1024 65534"),
    ("60999 32768", "60999 is above 32768", "32768 60999"),
    ("32768", "it has 1 number instead of two", None),
    ("80 60999", "80 is below 1024", None),
    ("32768 70000", "70000 is not a port", None),
    ("32768 \u2013 60999", "the dash '\u2013': the two ports are separated by a blank", "32768 60999"),
    ("32768\u00a060999", "the no-break space", "32768 60999"),
    ("32768;60999", "the semicolon ';': the two ports are separated by a blank", "32768 60999"),
    ("32768 60999;", "the comment ';'", "32768 60999"),
    ("32768 to 60999", "the character 't'", "32768 60999"),
    ("32768/60999", "the character '/'", "32768 60999"),
    ("-1 60999", "-1 is not a port", None),
    ("32768 -60999", "-60999 is not a port", None),
]


@pytest.mark.parametrize(("value", "reason", "corrected"), RESERVED)
def test_a_refused_list_names_the_wrong_character(value: str, reason: str, corrected: str | None) -> None:
    assert reserved_value(value) is None
    found = mistake_in_reserved(value)
    assert reason in found.reason
    assert found.corrected == corrected


@pytest.mark.parametrize(("value", "reason", "corrected"), RANGE)
def test_a_refused_range_names_what_is_wrong_and_never_the_blank(
    value: str, reason: str, corrected: str | None
) -> None:
    assert range_value(value) is None
    found = mistake_in_range(value)
    assert reason in found.reason
    assert found.corrected == corrected


@pytest.mark.usefixtures("network")
def test_the_kernel_refuses_the_line_and_takes_the_corrected_one() -> None:
    for value, _, corrected in RESERVED:
        with pytest.raises(OSError, match="Invalid argument"):
            (SYSCTLS / "ip_local_reserved_ports").write_bytes(value.encode())
        if corrected is not None:
            write_sysctl("ip_local_reserved_ports", corrected)
            assert read_reserved_ports() == PortSet.parse(corrected)
    for value, _, corrected in RANGE:
        if (
            len(re.findall("[0-9]+", value)) == 2
        ):  # one number alone sets the lower end, and is a mistake all the same
            with pytest.raises(OSError, match="Invalid argument"):
                (SYSCTLS / "ip_local_port_range").write_bytes(value.encode())
        if corrected is not None:
            write_sysctl("ip_local_port_range", corrected)


@given(st.text("0123456789,-#; \"'x:\t.~/to\u2013\u00a0", max_size=24))
def test_any_refused_value_has_a_reason_and_a_corrected_value_is_one_that_is_taken(value: str) -> None:
    if reserved_value(value) is None:
        found = mistake_in_reserved(value)
        assert found.reason
        assert found.corrected is None or reserved_value(found.corrected) == ports_meant(value)
    if range_value(value) is None:
        other = mistake_in_range(value)
        assert other.reason
        assert other.corrected is None or isinstance(range_value(other.corrected), PortRange)


@pytest.mark.parametrize(
    ("line", "meant", "value"),
    [
        ("net.ipv4.ip_local_reserved_port = 1", RESERVED_KEY, "1"),
        ("net.ipv6.ip_local_reserved_ports = 1", RESERVED_KEY, "1"),
        ("net.ipv4.local_port_range = 1 2", RANGE_KEY, "1 2"),
        ("net/ipv4/ip_local_port_ranges=1 2", RANGE_KEY, "1 2"),
        ("net.ipv4.ip_local_reserved_ports 8080,9090", RESERVED_KEY, "8080,9090"),
        ("net.ipv4.ip_local_reserved_ports: 8080", RESERVED_KEY, "8080"),
        ("sysctl -w net.ipv4.ip_local_reserved_ports=8080", RESERVED_KEY, "8080"),
        ("net.ipv4. ip_local_port_range = 1024 2048", RANGE_KEY, "1024 2048"),
        ("net.ipv4.ip_local_reserved_ports += 8080", RESERVED_KEY, "8080"),
        ("echo 8080 > /proc/sys/net/ipv4/ip_local_reserved_ports", RESERVED_KEY, "8080"),
        ("echo '1024 2048' | tee /proc/sys/net/ipv4/ip_local_port_range", RANGE_KEY, "1024 2048"),
        ("cat /proc/sys/net/ipv4/ip_local_reserved_ports", RESERVED_KEY, ""),
        ("\ufeffnet.ipv4.ip_local_reserved_ports = 8080", RESERVED_KEY, "8080"),
        ("net.ipv4.ip_local_reserved_ports = 1", None, ""),
        ("-net.ipv4.ip_local_reserved_ports", None, ""),
        ("net.ipv4.ip_unprivileged_port_start = 1", None, ""),
        ("net.ipv4.ip_local_port_step_width = 1", None, ""),
        ("# net.ipv4.ip_local_reserved_port = 1", None, ""),
        ("; net.ipv4.ip_local_reserved_ports 1", None, ""),
        ("net.ipv4.tcp_tw_reuse = 1", None, ""),
    ],
)
def test_a_line_that_sets_nothing_is_noticed_with_what_it_was_meant_to_set(
    line: str, meant: str | None, value: str
) -> None:
    found = list(lost_lines(ConfigFile("/etc/x.conf", "/etc/x.conf", f"vm.x = 1\n{line}\n")))
    assert [(one.setting.key, one.value, one.line) for one in found] == ([(meant, value, 1)] if meant else [])


@pytest.mark.peers
@pytest.mark.usefixtures("network")
def test_such_lines_set_nothing_at_boot_and_a_fix_keeps_what_they_meant(
    tmp_path: Path, peer: Callable[[str], str]
) -> None:
    peer("sysctl")
    root = empty_tree(tmp_path / "root")
    lines = (
        "net.ipv4.ip_local_reserved_ports 8080",
        "net.ipv4.ip_local_reserved_port = 8082",
        "\ufeffnet.ipv4.ip_local_reserved_ports = 8084",
        "net.ipv4.ip_local_reserved_ports = 8086\u20138088",
        "echo 8090 > /proc/sys/net/ipv4/ip_local_reserved_ports",
    )
    (root / "etc/sysctl.d/11-x.conf").write_text("net.ipv4.ip_local_reserved_ports = 8092\n", encoding="utf-16")
    (root / "etc/sysctl.d/10-x.conf").write_text("\n".join(lines), encoding="utf-8")
    boot(root, "sysctl --system")
    assert read_reserved_ports() == PortSet()
    (change,) = plan_boot_changes(read_tree(root), PortSet.of([9090]), None)
    assert change.path == "/etc/sysctl.d/60-tailbite.conf"
    assert change.after is not None
    assert "= 8080,8082,8084,8086-8088,8090,8092,9090\n" in change.after
