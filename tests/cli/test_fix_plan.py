"""The plan that ``tailbite fix`` makes from its options: files of an image, notes, and the namespace it acts in."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from support.boot import empty_tree
from support.itself import connected_to_itself
from support.limits import without
from tailbite.cli.fix_plan import FixOptions, plan_fix
from tailbite.core.ports import PortRange, PortSet
from tailbite.host.change.plan import FixRequest
from tailbite.host.change.records import FileChange, SettingChange
from tailbite.host.explain.subject import Service

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("network")


def test_services_of_an_image_are_reserved_if_they_lie_in_the_range_of_its_files(tmp_path: Path) -> None:
    root = empty_tree(tmp_path)
    (root / "etc/sysctl.d/10-range.conf").write_text("net.ipv4.ip_local_port_range = 20000 30000\n")
    options = FixOptions(FixRequest(), services=(Service(25000), Service(50000)), root=root)
    (change,) = plan_fix(options).changes
    assert isinstance(change, FileChange)
    assert change.added == PortSet.of([25000])


def test_a_broken_line_of_an_image_is_told_and_its_ports_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = empty_tree(tmp_path)
    (root / "etc/sysctl.d/10-broken.conf").write_text("net.ipv4.ip_local_reserved_ports = 7000, 7002\n")
    (change,) = plan_fix(FixOptions(FixRequest(PortSet.of([8080])), root=root)).changes
    assert isinstance(change, FileChange)
    assert "= 7000,7002,8080\n" in (change.after or "")
    assert "ports 7000,7002 are reserved at the next boot as well" in capsys.readouterr().err
    (root / "etc/sysctl.d/10-broken.conf").write_text("net.ipv4.ip_local_reserved_ports = 7000 # x\n")
    assert plan_fix(FixOptions(FixRequest(PortSet.of([8080])), root=root)).changes
    assert "port 7000 is reserved at the next boot as well: a line in a file asks for it" in capsys.readouterr().err


def test_a_line_that_cannot_be_understood_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = empty_tree(tmp_path)
    (root / "etc/sysctl.d/10-broken.conf").write_text("net.ipv4.ip_local_reserved_ports = 55_000\n")
    assert plan_fix(FixOptions(FixRequest(PortSet.of([8080])), root=root)).changes
    assert "no port can be read from line 1 of /etc/sysctl.d/10-broken.conf ('55_000')" in capsys.readouterr().err


def test_a_private_namespace_does_not_plan_files_of_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    (change,) = plan_fix(FixOptions(FixRequest(PortSet.of([8080])))).changes
    assert isinstance(change, SettingChange)
    assert "not the host's network namespace" in capsys.readouterr().err


def test_what_is_left_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    plan_fix(FixOptions(FixRequest(PortSet.parse("40000-40999"), PortRange(40000, 49999))))
    assert "9000 of 28232 source ports remain available in this namespace" in capsys.readouterr().err


def test_what_leaves_no_port_is_refused() -> None:
    with pytest.raises(click.UsageError, match="EADDRNOTAVAIL"):
        plan_fix(FixOptions(FixRequest(PortSet.parse("1024-65535"))))


def test_without_a_request_it_is_what_the_doctor_advises() -> None:
    with socket.create_server(("127.0.0.1", 40000)):
        (change,) = plan_fix(FixOptions(FixRequest())).changes
    assert isinstance(change, SettingChange)
    assert change.added == PortSet.of([40000])


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the emulated limits know x86_64's system calls")
@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (("--kill", "32246"), 3, "nothing to do for what is visible"),
        (("--kill", "32246", "--apply"), 3, "nothing to do for what is visible"),
        ((), 3, "nothing to do for what is visible"),
        (("--reserve", "32246"), 1, "add --apply to do it"),
    ],
)
def test_where_sockets_are_not_listed_it_does_not_say_that_all_is_well(
    words: tuple[str, ...], status: int, sentence: str
) -> None:
    with connected_to_itself(32246):
        command = [*without("SOCK_DIAG"), sys.executable, "-m", "tailbite", "fix", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    assert "could not see the self-connected sockets" in done.stderr
    assert sentence in done.stderr
