"""A refused line is explained by the character that is wrong, and the corrected line is one that the kernel takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.core.ports import PortRange, PortSet
from tailbite.host.sysctl.mistakes import (
    misspelt_settings,
    mistake_in_range,
    mistake_in_reserved,
    ports_meant,
)
from tailbite.host.sysctl.text import ConfigFile
from tailbite.host.sysctl.value import range_value, reserved_value
from tailbite.kernel.sysctl import read_reserved_ports, write_sysctl

RESERVED = [
    ("55000, 57314", "the blank ' ' behind '55000,'", "55000,57314"),
    ("55000 # x", "the blank", "55000"),
    ("55000# x", "the comment '#' behind '55000'", "55000"),
    ('"8080,9090"', "the quotation mark '\"' at its beginning", "8080,9090"),
    ("1024 15999", "the blank", "1024,15999"),
    ("8080\\", "the backslash", "8080"),
    ("8080:8090", "the colon", "8080-8090"),
    ("8080;9090", "the comment ';'", "8080"),
    ("70000", "70000 is not a port", None),
    ("8090-8080", "8090-8080 begins with the higher port", "8080-8090"),
    ("8080--8090", "'8080--8090' is not a port", "8080,8090"),
    ("http", "the character 'h'", None),
]
RANGE = [
    ('"1024 65534"', "the quotation mark '\"' at its beginning: values have no quotation marks", "1024 65534"),
    ("1024-65534", "'-': the two ports are separated by a blank", "1024 65534"),
    ("1024,65534", "','", "1024 65534"),
    ("60999 32768", "60999 is above 32768", "32768 60999"),
    ("32768", "it has 1 number instead of two", None),
    ("80 60999", "80 is below 1024", None),
    ("32768 70000", "70000 is not a port", None),
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
            write_sysctl("ip_local_reserved_ports", value)
        if corrected is not None:
            write_sysctl("ip_local_reserved_ports", corrected)
            assert read_reserved_ports() == PortSet.parse(corrected)


@given(st.text("0123456789,-#; \"'x:\t", max_size=24))
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
    ("line", "meant"),
    [
        ("net.ipv4.ip_local_reserved_port = 1", "net.ipv4.ip_local_reserved_ports"),
        ("net.ipv6.ip_local_reserved_ports = 1", "net.ipv4.ip_local_reserved_ports"),
        ("net.ipv4.local_port_range = 1 2", "net.ipv4.ip_local_port_range"),
        ("net/ipv4/ip_local_port_ranges=1 2", "net.ipv4.ip_local_port_range"),
        ("net.ipv4.ip_local_reserved_ports = 1", None),
        ("net.ipv4.ip_unprivileged_port_start = 1", None),
        ("net.ipv4.ip_local_port_step_width = 1", None),
        ("# net.ipv4.ip_local_reserved_port = 1", None),
        ("net.ipv4.tcp_tw_reuse = 1", None),
    ],
)
def test_a_name_that_is_nearly_right_is_noticed(line: str, meant: str | None) -> None:
    found = list(misspelt_settings(ConfigFile("/etc/x.conf", "/etc/x.conf", f"vm.x = 1\n{line}\n")))
    assert [key for _, _, key in found] == ([meant] if meant else [])
    assert all(number == 1 for number, _, _ in found)
