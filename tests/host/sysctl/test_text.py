"""Editing one setting in texts: what is not the setting stays, byte for byte."""

from __future__ import annotations

import difflib
import functools
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbite.core.ports import PortRange, PortSet
from tailbite.host.sysctl import text as sysctl_text
from tailbite.host.sysctl.text import (
    OWN_FILE,
    BootOrder,
    ConfigFile,
    assignments,
    edits_between,
    later_name,
    settle_setting,
    value_at_boot,
    value_in,
    with_assignment,
    without_assignment,
)
from tailbite.host.sysctl.value import EPHEMERAL, RESERVED

KEY = RESERVED.key


def at(path: str, text: str) -> ConfigFile:
    return ConfigFile(path, path, text)


def boots(*files: ConfigFile) -> BootOrder:
    return BootOrder("test", tuple(sorted(files, key=lambda file: file.name)))


def add(ports: str, *files: ConfigFile) -> dict[str, str]:
    before = [boots(*files)]
    after = settle_setting(
        before, RESERVED, lambda there: functools.reduce(operator.or_, there, PortSet.parse(ports))
    )
    return {path: text for path, (_, text) in edits_between(before, after).items()}


@given(text=st.text(), value=st.sampled_from(["8080", "1-3,8", "50051"]))
def test_an_edit_sets_the_value_and_changes_one_line_at_most(text: str, value: str) -> None:
    """Whatever a file holds: one line is added or replaced, and doing it twice is doing it once."""
    after = with_assignment(text, KEY, value)
    assert assignments(at("", after), KEY)[-1].value == value
    assert with_assignment(after, KEY, value) == after
    if text.strip():
        changes = [line for line in difflib.ndiff(text.split("\n"), after.split("\n")) if line[0] in "+-"]
        assert len([line for line in changes if line.startswith("+") and KEY in line]) <= 1
        assert after.startswith(text) or len(changes) == 2


@pytest.mark.parametrize(
    "line",
    [
        f"{KEY} = 8080",
        f"{KEY}=8080",
        f"  {KEY}\t=  8080  ",
        f"-{KEY} = 8080",
        "net/ipv4/ip_local_reserved_ports = 8080",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_spelling_of_a_line_and_its_neighbours_stay(line: str, end: str) -> None:
    before = end.join(["# ours: 8080", f"; {KEY} = 1", line, "", "kernel.pid_max = 4194304", "# caf\udce9"])
    after = with_assignment(before, KEY, "8080,50051")
    assert after == before.replace(line, line.replace("8080", "8080,50051"))


def test_a_file_without_a_final_newline_keeps_its_last_line() -> None:
    assert with_assignment("vm.swappiness = 1", KEY, "5") == f"vm.swappiness = 1\n{KEY} = 5\n"
    assert (
        with_assignment("vm.swappiness = 1\r\nvm.x = 2", KEY, "5")
        == f"vm.swappiness = 1\r\nvm.x = 2\r\n{KEY} = 5\r\n"
    )


def test_a_new_file_repeats_what_an_earlier_one_reserves() -> None:
    """The last assignment wins whole, so ours must contain theirs."""
    (change,) = add("50051", at("/etc/sysctl.d/50-app.conf", f"{KEY} = 8080-8090\n")).items()
    assert change[0] == OWN_FILE
    assert change[1].endswith(f"{KEY} = 8080-8090,50051\n")


def test_a_later_file_of_the_administrator_is_changed_in_place() -> None:
    theirs = at("/etc/sysctl.d/90-app.conf", f"# app\n{KEY} = 8080\n")
    assert add("50051", theirs) == {theirs.path: f"# app\n{KEY} = 8080,50051\n"}


@pytest.mark.parametrize("path", ["/usr/lib/sysctl.d/90-app.conf", "/run/sysctl.d/90-app.conf"])
def test_a_later_file_of_a_package_is_left_alone_and_followed_by_one_of_ours(path: str) -> None:
    theirs = at(path, f"{KEY} = 8080\n")
    (change,) = add("50051", theirs).items()
    assert change[0] == later_name(path) == "/etc/sysctl.d/90-app.tailbite.conf" > "/etc/sysctl.d/90-app.conf"
    assert change[1].endswith(f"{KEY} = 8080,50051\n")


def test_a_link_to_a_package_s_file_is_not_a_file_of_the_administrator() -> None:
    theirs = ConfigFile("/etc/sysctl.d/90-app.conf", "/usr/share/app/sysctl.conf", f"{KEY} = 8080\n")
    assert set(add("50051", theirs)) == {"/etc/sysctl.d/90-app.tailbite.conf"}


def test_both_settings_live_in_one_file() -> None:
    orders = settle_setting([boots()], RESERVED, lambda _: PortSet.parse("50051"))
    (order,) = settle_setting(orders, EPHEMERAL, lambda _: PortRange(49152, 65535))
    assert value_at_boot(order, RESERVED) == PortSet.parse("50051")
    assert value_at_boot(order, EPHEMERAL) == PortRange(49152, 65535)
    assert [file.text.count("tailbite fix --undo") for file in order.files] == [1]


@pytest.mark.parametrize("line", [f"{KEY} = 8080 # web", f"{KEY} = 8080, 9090", f"-{KEY}"])
def test_a_later_line_that_the_kernel_refuses_is_followed_by_a_file_of_ours(line: str) -> None:
    """systemd sets nothing at all because of it, and what its author meant is not ours to guess."""
    assert set(add("50051", at("/etc/sysctl.d/70-x.conf", line))) == {"/etc/sysctl.d/70-x.tailbite.conf"}


def test_a_glob_assigns_too_and_any_plain_line_beats_it() -> None:
    file = at("/etc/sysctl.d/50-a.conf", f"net.ipv4.ip_local_*_ports = 1\n-{KEY}\n{KEY}=2\nnet.ipv4.tcp_*=3\n")
    assert [(each.value, each.is_pattern) for each in assignments(file, KEY)] == [
        ("1", True),
        (None, False),
        ("2", False),
    ]
    (own,) = add("8080", at("/etc/sysctl.d/50-a.conf", "net.ipv4.ip_local_reserved_port? = 7\n")).items()
    assert own == (OWN_FILE, own[1])
    assert value_in(own[1], KEY) == "7,8080"


def test_the_last_plain_line_is_read_and_can_be_taken_out() -> None:
    text = f"a = 1\n{KEY} = 1\nnet.ipv4.* = 9\n{KEY} = 2\nb = 2\n"
    assert value_in(text, KEY) == "2"
    assert without_assignment(text, KEY) == f"a = 1\n{KEY} = 1\nnet.ipv4.* = 9\nb = 2\n"
    assert value_in("net.ipv4.* = 9\n", KEY) is None
    assert without_assignment("net.ipv4.* = 9\n", KEY) == "net.ipv4.* = 9\n"


def test_the_file_that_is_applied_last_is_edited_itself() -> None:
    last = at("/etc/sysctl.conf", f"{KEY} = 1\n")
    before = [BootOrder("test", (at(OWN_FILE, f"{KEY} = 5\n"), last), last="/etc/sysctl.conf")]
    after = settle_setting(before, RESERVED, lambda there: functools.reduce(operator.or_, there, PortSet.parse("8")))
    assert edits_between(before, after) == {"/etc/sysctl.conf": (f"{KEY} = 1\n", f"{KEY} = 1,8\n")}


@pytest.mark.parametrize(
    ("line", "systemd", "procps"),
    [
        (f"- {KEY} = 80", "80", None),
        (f"--{KEY} = 80", None, "80"),
        (f"{KEY}. = 80", "80", None),
        (f"{KEY} =\f80", "\f80", "80"),
        (f"\v{KEY} = 80", None, "80"),
        (f"{KEY} = 80\r,81", "80", "80\r,81"),
        (f"{KEY} = 80\0,81", "80", "80"),
        ("net//ipv4/./ip_local_reserved_ports = 80", "80", "80"),
        ("net.* = 80", None, None),
        ("net.*.ip_local_reserved_ports = 80", "80", "80"),
    ],
)
def test_each_program_has_its_own_reading_of_a_strange_line(
    line: str, systemd: str | None, procps: str | None
) -> None:
    """The same lines are given to the programs themselves in tests/host/explain/test_boot.py."""
    for in_turn, value in ((False, systemd), (True, procps)):
        found = assignments(at("", line), KEY, in_turn=in_turn)
        assert [item.value for item in found] == ([] if value is None else [value])


@pytest.mark.parametrize(
    "key", ["net/ipv6/../ipv4/ip_local_reserved_ports", "/net/./ipv4/../ipv4/ip_local_reserved_ports"]
)
def test_dots_in_a_key_are_resolved_where_the_program_opens_the_path(key: str) -> None:
    """Seen with procps 4.0 and systemd 252: the first writes the setting, the second refuses the key."""
    file = at("/etc/sysctl.d/a.conf", f"{key} = 50051\n")
    (found,) = assignments(file, KEY, in_turn=True)
    assert found.value == "50051"
    assert assignments(file, KEY, in_turn=False) == []


def test_lines_about_other_settings_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 10 MB has 700 000 of them, which took a minute."""
    parsed = []
    parse = sysctl_text._parse

    def counting(line: str, in_turn: bool) -> tuple[str, str | None]:
        parsed.append(line)
        return parse(line, in_turn)

    monkeypatch.setattr(sysctl_text, "_parse", counting)
    file = at("/etc/sysctl.d/a.conf", "kernel.panic = 1\n" * 1000 + f"{KEY} = 50051\nnet.*.x = 1\n")
    assert [one.line for one in assignments(file, KEY)] == [1000]
    assert len(parsed) == 4
